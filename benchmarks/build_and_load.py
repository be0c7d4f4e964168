"""Peak memory of a build, and time and memory of a load in both modes, over growing engines.

    python benchmarks/build_and_load.py [--sizes 0.25,0.5,1,2] [--rounds N]

A SublayerStack of hidden 2048 and ffn 8192 in float32, as many layers as fill the size (GB = 1e9 bytes). Every build
and every load runs in a process of its own, imports not counted; files are in the page cache. Bare ONNX Runtime loads
the same graph with the same weights as external data.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from common import Spread, ratios, report

HIDDEN, FFN = 2048, 8192
LAYER_BYTES = 4 * (2 * HIDDEN * FFN + HIDDEN + FFN + 2 * HIDDEN)
STEP = Path(__file__).with_name("build_and_load_step.py")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--sizes", default="0.25,0.5,1,2", help="weights of the engine in GB, comma separated"
    )
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    rows, raw = [], []
    for size in map(float, arguments.sizes.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            measured = measure(Path(folder), max(1, round(size * 1e9 / LAYER_BYTES)), arguments.rounds)
        raw.append(measured)
        rows.append(row(measured))
    report(
        "build_and_load",
        [
            "weights, GB",
            "build, s",
            "build peak, MB",
            "bound: 1.25 weights + 250 MB",
            "mapped load, s",
            "mapped private, MB",
            "prepack load, s",
            "bare ORT load, s",
            "prepack / bare ORT",
        ],
        rows,
        raw=raw,
        notes="Times are medians [10 % .. 90 %]; ratios are paired round by round. Targets at 1 GB: mapped load at "
        "most 1 s and 100 MB private, prepack load at most 1.1 times bare ONNX Runtime. Loads include all "
        "checksums (bare ONNX Runtime checks none). 'Private' is what the load added to the process's private memory.",
    )


def measure(folder: Path, layers: int, rounds: int) -> dict:
    step("checkpoint", folder, "--layers", str(layers), "--hidden", str(HIDDEN), "--ffn", str(FFN))
    built = step("build", folder)
    step("export", folder)
    loads: dict[str, list[dict]] = {"mapped": [], "prepack": [], "bare": []}
    for turn in range(rounds + 1):  # the first round fills the page cache and is not counted
        for mode, results in loads.items():
            result = step("load", folder, "--mode", mode)
            if turn:
                results.append(result)
    return {"weight_bytes": layers * LAYER_BYTES, "layers": layers, "build": built, "loads": loads}


def step(name: str, folder: Path, *options: str) -> dict:
    command = [sys.executable, str(STEP), name, str(folder), *options]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    if run.returncode:
        raise SystemExit(f"{' '.join(command[1:])} failed:\n{run.stderr}")
    return json.loads(run.stdout.splitlines()[-1])


def row(measured: dict) -> list[str]:
    weights, build, loads = measured["weight_bytes"], measured["build"], measured["loads"]
    seconds = {mode: [result["seconds"] for result in results] for mode, results in loads.items()}
    private = Spread.of([result["private_bytes"] for result in loads["mapped"]])
    return [
        f"{weights / 1e9:.2f}",
        f"{build['seconds']:.1f}",
        f"{build['peak_bytes'] / 1e6:.0f}",
        f"{1.25 * weights / 1e6 + 250:.0f}",
        f"{Spread.of(seconds['mapped']):.2f}",
        f"{private.scaled(1e-6):.0f}",
        f"{Spread.of(seconds['prepack']):.2f}",
        f"{Spread.of(seconds['bare']):.2f}",
        f"{ratios(seconds['prepack'], seconds['bare']):.2f}",
    ]


if __name__ == "__main__":
    main()
