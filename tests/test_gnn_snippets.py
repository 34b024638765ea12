"""The source's programs, in a process of their own, as their users run them.

They say `tf.keras`, which tensorflow_transform turns into Keras 2 for the process that imports it,
as that of the other tests does, and by a variable of the environment for those that it starts.
"""

import os
import subprocess
import sys
from pathlib import Path

PROGRAMS = Path(__file__).with_name("gnn_snippets.py")


def test_the_sources_programs_run_as_they_are_written():
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(PROGRAMS)]
    environment = {n: value for n, value in os.environ.items() if n != "TF_USE_LEGACY_KERAS"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout
