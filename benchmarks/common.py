"""Timing and reporting shared by the benchmarks: interleaved rounds, paired ratios, the machine beside them."""

import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True)
class Spread:
    """Median with the 10th and 90th percentile of the same samples."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(samples: Sequence[float]) -> "Spread":
        ordered = sorted(samples)

        def at(share: float) -> float:
            return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]

        return Spread(statistics.median(ordered), at(0.1), at(0.9))

    def scaled(self, factor: float) -> "Spread":
        return Spread(self.median * factor, self.low * factor, self.high * factor)

    def __format__(self, spec: str) -> str:
        return f"{self.median:{spec}} [{self.low:{spec}} .. {self.high:{spec}}]"


def interleaved(
    variants: Mapping[str, Callable[[], object]], *, rounds: int, seconds_per_turn: float = 0.03
) -> dict[str, list[float]]:
    """Seconds a call, one sample a round and variant: the variants take turns, in a new random order each round.

    In a fixed order a variant would always run after the same one, and inherit its caches and its spinning threads.
    A turn first runs twice untimed, then as many calls as fill `seconds_per_turn`; its sample is their median, so
    that one interrupted call does not decide a round.
    """
    calls = {}
    for name, run in variants.items():
        run()
        begin = time.perf_counter()
        run()
        calls[name] = max(3, min(2000, int(seconds_per_turn / max(time.perf_counter() - begin, 1e-7))))
    samples: dict[str, list[float]] = {name: [] for name in variants}
    shuffled = random.Random(0)
    for _ in range(rounds):
        for name in shuffled.sample(list(variants), len(variants)):
            run = variants[name]
            run()
            run()
            times = []
            for _ in range(calls[name]):
                begin = time.perf_counter()
                run()
                times.append(time.perf_counter() - begin)
            samples[name].append(statistics.median(times))
    return samples


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Round by round, so that a machine whose speed drifts does not decide the outcome."""
    return Spread.of([a / b for a, b in zip(ours, theirs, strict=True)])


def differences(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    return Spread.of([a - b for a, b in zip(ours, theirs, strict=True)])


def machine() -> dict[str, str]:
    """What the numbers were taken on; no host name, no path."""
    model, virtual = platform.processor() or platform.machine(), ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        virtual = ", virtual machine" if " hypervisor" in cpuinfo.read_text() else ""
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line
        ]
        model = names[0] if names else model
    packages = ("trtllm-ext", "onnxruntime", "onnx", "numpy", "torch", "transformers")
    versions = []
    for package in packages:
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": f"{len(os.sched_getaffinity(0))} cores of {model}, {memory:.0f} GiB{virtual}",
        "python": platform.python_version(),
        "versions": ", ".join(versions),
        "date": time.strftime("%Y-%m-%d"),
    }


def report(
    name: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, raw: object, notes: str = ""
) -> None:
    """Prints the table and writes results/NAME.md and results/NAME.json with the machine and the command."""
    facts = machine()
    command = f"python {Path(sys.argv[0]).resolve().relative_to(RESULTS.parents[1])}" + "".join(
        f" {argument}" for argument in sys.argv[1:]
    )
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    table = "\n".join(lines)
    text = f"# {name}\n\n`{command}`, {facts['date']}; {facts['cpu']}; Python {facts['python']}, {facts['versions']}.\n"
    text += f"\n{table}\n" + (f"\n{notes}\n" if notes else "")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text)
    (RESULTS / f"{name}.json").write_text(
        json.dumps({"command": command, "machine": facts, "raw": raw}, indent=1) + "\n"
    )
    print(text)
