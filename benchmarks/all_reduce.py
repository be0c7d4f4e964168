"""The all-reduce step of an engine, between rank processes of one machine, beside a bare mpi4py Allreduce.

    python benchmarks/all_reduce.py [--ranks N] [--rounds N]

Ours adds in rank order, so that its bits are the same everywhere; the library chooses its own order.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from common import Spread, differences, ratios, report

from trtllm_ext.parallel.launch import find_launcher, launcher_options

MOST_RATIO, MOST_MORE_US = 1.10, 25.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=21)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measured(arguments.ranks, arguments.rounds, Path(folder) / "figures.json")
    rows = []
    for size, samples in figures["samples"].items():
        ratio = ratios(samples["ours"], samples["bare"])
        more = differences(samples["ours"], samples["bare"]).scaled(1e6)
        met = ratio.median <= MOST_RATIO or more.median <= MOST_MORE_US
        rows.append(
            [
                f"{int(size) // 1024}",
                f"{Spread.of(samples['bare']).scaled(1e6):.1f}",
                f"{Spread.of(samples['ours']).scaled(1e6):.1f}",
                f"{ratio:.2f}",
                f"{more:.1f}",
                "yes" if met else "no",
            ]
        )
    report(
        "all_reduce" if arguments.ranks == 2 else f"all_reduce_{arguments.ranks}",
        [
            "KiB of float32",
            "bare, us",
            "ours, us",
            "ratio",
            "more, us",
            f"<= {MOST_RATIO} or + {MOST_MORE_US:g} us",
        ],
        rows,
        raw=figures,
        notes=f"{arguments.ranks} ranks of one thread each, {figures['library']}; median [10 % .. 90 %] of "
        f"{arguments.rounds} rounds in which both take turns, ratio and difference paired round by round.",
    )


def measured(ranks: int, rounds: int, file: Path) -> dict:
    """What all_reduce_step.py finds."""
    launcher = find_launcher()
    step = Path(__file__).parent / "all_reduce_step.py"
    command = [
        *launcher,
        *launcher_options(launcher),
        "-n",
        str(ranks),
        sys.executable,
        str(step),
        str(file),
        str(rounds),
    ]
    subprocess.run(command, check=True, env={**os.environ, "TRTLLM_EXT_RANK_TIMEOUT": "60"})
    return json.loads(file.read_text())


if __name__ == "__main__":
    main()
