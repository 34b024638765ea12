"""Claim: the demo takes under 4 minutes and 4 GiB on 2 cores, and its embedding is worth having.

Runs `imgembed demo` in a fresh folder as its own process and prints wall and CPU seconds, peak
memory, and the figures of metrics.json: held-out pairs against raw features, and text queries.

    python benchmarks/demo.py [--seed 0]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    """Runs the demo and prints what it took and what came out."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seed", default="0")
    seed = arguments.parse_args().seed
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        program = Path(sys.executable).with_name("imgembed")
        subprocess.run([program, "demo", "--seed", seed], cwd=folder, check=True)
        report(Path(folder), time.monotonic() - began)


def report(folder: Path, seconds: float) -> None:
    """Prints the figures of a finished demo in `folder`."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = used.ru_utime + used.ru_stime
    print(f"wall {seconds:.0f} s, CPU {cpu:.0f} s on {os.cpu_count()} cores")
    print(f"peak memory {used.ru_maxrss / 2**20:.2f} GiB")
    (path,) = folder.glob("imgembed-demo/run/evaluation/v*/metrics.json")
    metrics = json.loads(path.read_text())
    images = metrics["image_to_image"]["methods"]
    texts = metrics["text_to_image"]["methods"]
    trained = images["trained embedding"]["recall@10"]["value"]
    raw = images["raw features"]["recall@10"]["value"]
    text = texts["trained embedding"]["recall@10"]["value"]
    print(f"held-out pairs, recall@10: trained {trained:.3f}, raw features {raw:.3f}, ", end="")
    print(f"factor {trained / raw:.1f}; text queries, recall@10: {text:.3f}")


if __name__ == "__main__":
    main()
