"""Memory and speed of a conversion, beside copying the same files.

    python benchmarks/convert.py [--gigabytes 2] [--rounds N]

A sharded BERT of hidden 2048 and ffn 8192 with random float32 weights, as many layers as fill the size (GB: 1e9 B).
Every step runs in a process of its own, imports not counted; source files are in the page cache.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from common import Spread, ratios, report

STEP = Path(__file__).with_name("convert_step.py")
# (form of the source's files, type of the result)
CASES = (("safetensors", "auto"), ("bin", "auto"), ("safetensors", "bfloat16"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    raw = {}
    for form in dict.fromkeys(form for form, _ in CASES):
        with tempfile.TemporaryDirectory() as folder:
            step("source", folder, "--gigabytes", str(arguments.gigabytes), "--form", form)
            dtypes = [dtype for other, dtype in CASES if other == form]
            raw.update(measure(Path(folder), form, dtypes, arguments.rounds))
    report(
        "convert",
        [
            "source",
            "result",
            "GB",
            "copy, s",
            "copy on disk, s",
            "convert, s",
            "speed / copy on disk",
            "speed / copy",
            "peak above idle, MB",
        ],
        [row(form, dtype, raw[f"{form} to {dtype}"]) for form, dtype in CASES],
        raw=raw,
        notes="Times are medians [10 % .. 90 %]; ratios are paired round by round. Targets: half the speed of a copy, "
        "400 MB. 'Copy' is shutil.copyfile of every weight file; 'on disk' adds an fsync of each copy, which "
        "a conversion does as well before it puts its result in place. The peak is VmHWM, mapped pages of "
        "the source included, less VmRSS before the conversion.",
    )


def measure(folder: Path, form: str, dtypes: list[str], rounds: int) -> dict[str, dict]:
    copies: list[dict] = []
    converted: dict[str, list[dict]] = {dtype: [] for dtype in dtypes}
    for turn in range(rounds + 1):  # the first round fills the page cache and is not counted
        copy = step("copy", folder)
        copies += [copy] if turn else []
        for dtype, results in converted.items():
            result = step("convert", folder, "--form", form, "--dtype", dtype)
            results += [result] if turn else []
    return {f"{form} to {dtype}": {"copy": copies, "convert": converted[dtype]} for dtype in dtypes}


def step(name: str, folder: str | Path, *options: str) -> dict:
    command = [sys.executable, str(STEP), name, str(folder), *options]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        raise SystemExit(f"{' '.join(command[1:])} failed:\n{run.stderr}")
    return json.loads(run.stdout.splitlines()[-1])


def row(form: str, dtype: str, measured: dict) -> list[str]:
    copied = [result["seconds"] for result in measured["copy"]]
    on_disk = [result["synced_seconds"] for result in measured["copy"]]
    converted = [result["seconds"] for result in measured["convert"]]
    peaks = [result["peak_bytes"] - result["idle_bytes"] for result in measured["convert"]]
    return [
        form,
        "float32" if dtype == "auto" else dtype,
        f"{measured['copy'][0]['bytes'] / 1e9:.2f}",
        f"{Spread.of(copied):.2f}",
        f"{Spread.of(on_disk):.2f}",
        f"{Spread.of(converted):.2f}",
        f"{ratios(on_disk, converted):.2f}",
        f"{ratios(copied, converted):.2f}",
        f"{max(peaks) / 1e6:.0f}",
    ]


if __name__ == "__main__":
    main()
