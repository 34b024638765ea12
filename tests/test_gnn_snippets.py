"""The source's programs, in a process of their own, as their users run them.

They say `tf.keras`, which tensorflow_transform turns into Keras 2 for the whole process that
imports it, as that of the other tests does.
"""

import subprocess
import sys
from pathlib import Path

PROGRAMS = Path(__file__).with_name("gnn_snippets.py")


def test_the_sources_programs_run_as_they_are_written():
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(PROGRAMS)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout
