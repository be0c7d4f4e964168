"""Runs every benchmark, one after the other; each writes its table to results/.   python benchmarks/run_all.py"""

import subprocess
import sys
from pathlib import Path

BENCHMARKS = (
    "import_time.py",
    "depth.py",
    "virtual_weights.py",
    "encoder.py",
    "stack.py",
    "fusion_level.py",
    "surgery.py",
    "build_and_load.py",
    "convert.py",
    "all_reduce.py",
    "tensor_parallel.py",
    "serving/load.py",
)


def main() -> int:
    here = Path(__file__).parent
    return max(
        subprocess.run([sys.executable, str(here / name)], check=False).returncode for name in BENCHMARKS
    )


if __name__ == "__main__":
    sys.exit(main())
