"""The kernels beside PyTorch on one GPU, in one run: tables on the screen, raw numbers as JSON.

    python benchmarks/gpu/run.py [--limit SECONDS] [--rounds N] [--only REGEX] [--output DIRECTORY]

Copy and read rates and a large bf16 product are measured first, so that ratios are of one run. Every variant is held
against float64 before it is timed; both sides run as CUDA graphs over random data in rotation, in turns. When the time
is up the cases that are left are named, and what there is is written. `--device cpu --tiny` tries the harness itself.
"""

import argparse
import gc
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[each]) for each in range(3)]

import ceilings  # noqa: E402
import feed_forward_cases  # noqa: E402
import norm_cases  # noqa: E402
import torch  # noqa: E402
from cases import Case, Ready, Setting  # noqa: E402
from common import Spread, ratios  # noqa: E402
from record import Record, command_of, tell, write  # noqa: E402
from timing import Timed, interleaved_us, kernels_of, prepare  # noqa: E402

from trtllm_ext.plugin.kernels import load_kernels  # noqa: E402

OURS = "ours"


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    until = time.monotonic() + options.limit
    kernels = load_kernels(options.library)
    kernels.check_device()
    torch.manual_seed(0)
    setting = Setting(kernels, options.device, options.tiny)
    record: Record = {
        "command": command_of("run.py"),
        "machine": _machine(options.device, kernels.info),
        "cases": [],
    }
    record["ceilings"] = ceilings.measure(options.device, options.tiny, options.rounds)
    tell(f"{record['machine']}\nceilings: {_ceilings(record['ceilings'])}")
    cases = [*norm_cases.cases(setting), *feed_forward_cases.cases(setting)]
    cases = [each for each in cases if re.match(options.only, each.name)]
    longest = 0.0
    for case in cases:
        begin = time.monotonic()
        # A case takes about as long as the longest before it; the first has to compile more than others.
        if begin + 1.2 * longest > until:
            record["cases"].append(
                {"name": case.name, "table": case.table, "came": "not run: the time was up"}
            )
            continue
        record["cases"].append(_run(case, setting, options.rounds))
        longest = max(longest, time.monotonic() - begin)
        tell(f"{time.monotonic() - begin:5.1f} s  {_line(record['cases'][-1])}")
        write(record, options.output, "gpu_kernels", _tables(record))
    tell(_tables(record))
    write(record, options.output, "gpu_kernels", _tables(record))
    _add_kernels(cases, record["cases"], setting, until)
    write(record, options.output, "gpu_kernels", _tables(record))
    return int(any(each["came"] != "ok" or "left_out" in each for each in record["cases"]))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--limit", type=float, default=420.0, metavar="SECONDS", help="of the whole run")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default="", metavar="REGEX", help="cases whose names begin so")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "results")
    parser.add_argument("--library", help="of the kernels, where it is not the package's own")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes that try the harness and measure nothing")
    return parser.parse_args(arguments)


def _run(case: Case, setting: Setting, rounds: int) -> Record:
    """Checks and times one case; what goes wrong is told in its record."""
    found: Record = {"name": case.name, "table": case.table, "came": "ok"}
    try:
        with torch.inference_mode():
            ready = case.begin()
            found |= {"sets": ready.sets, "errors": {}, **ready.notes}
            timed = _right_ones(ready, case.tolerance, setting.device, found)
            if OURS not in timed:
                return found | {"came": found["left_out"][OURS]}
            found["microseconds"] = interleaved_us(timed, setting.device, rounds)
    except Exception as problem:  # the other cases are worth having
        found["came"] = _failed(problem)
    finally:
        _forget(setting.device)
    if case.moved_bytes:
        found["moved_bytes"] = case.moved_bytes
    if case.operations:
        found["operations"] = case.operations
    return found


def _right_ones(ready: Ready, tolerance: float, device: str, found: Record) -> dict[str, Timed]:
    """The variants that run and are right, ready to be timed; `found` tells what is wrong with the others."""
    timed = {}
    for name, call in ready.calls.items():
        try:
            error = found["errors"][name] = ready.error(name)
            if not error <= tolerance:
                raise ValueError(f"wrong by {error:.1e}, {tolerance} is right")
            timed[name] = prepare(call, ready.sets, device)
        except Exception as problem:  # the other variants are worth having
            found.setdefault("left_out", {})[name] = _failed(problem)
    return timed


def _add_kernels(cases: list[Case], records: list[Record], setting: Setting, until: float) -> None:
    """What our variants and the bare products launch. After all timing: graphs are slower where a profiler was."""
    longest = 0.0
    for case, found in zip(cases, records, strict=True):
        begin = time.monotonic()
        if found["came"] != "ok" or begin + 1.2 * longest > until:
            continue
        try:
            with torch.inference_mode():
                calls = case.begin().calls
                names = [
                    name for name in calls if not name.startswith("torch") and name in found["microseconds"]
                ]
                found["kernels"] = {name: kernels_of(calls[name], setting.device) for name in names}
        except Exception as problem:  # the times are there without it
            found["kernels"] = {OURS: [(_failed(problem), 0.0)]}
        finally:
            _forget(setting.device)
        longest = max(longest, time.monotonic() - begin)


def _failed(problem: Exception) -> str:
    return f"failed: {type(problem).__name__}: {problem}"[:600]


def _forget(device: str) -> None:
    """Memory of the last case, for the next one."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def _line(case: Record) -> str:
    if "microseconds" not in case:
        return f"{case['name']}: {case['came']}"
    times = ", ".join(f"{name} {Spread.of(each).median:.2f}" for name, each in case["microseconds"].items())
    left_out = "".join(f"; {name} {why}" for name, why in case.get("left_out", {}).items())
    return f"{case['name']}: {times} us{left_out}"


def _tables(record: Record) -> str:
    """Markdown: our microseconds, our share of the ceiling, and the others' time over ours, paired by rounds."""
    lines = [f"\nCeilings: {_ceilings(record['ceilings'])}"]
    for table in dict.fromkeys(each["table"] for each in record["cases"]):
        cases = [each for each in record["cases"] if each["table"] == table]
        others = list(
            dict.fromkeys(name for each in cases for name in each.get("microseconds", ()) if name != OURS)
        )
        lines += [
            f"\n## {table}\n",
            f"| case | ours, us | of the ceiling | {' | '.join(f'{each} / ours' for each in others)} |",
        ]
        lines += ["|" + " --- |" * (3 + len(others))]
        for case in cases:
            samples = case.get("microseconds")
            if samples is None:
                lines.append(f"| {case['name']} | {case['came'][:80]} |" + " |" * (1 + len(others)))
                continue
            cells = [
                f"{ratios(samples[name], samples[OURS]):.3f}" if name in samples else "" for name in others
            ]
            share = _share(case, record["ceilings"])
            lines.append(
                f"| {case['name']} | {Spread.of(samples[OURS]):.2f} | {share} | {' | '.join(cells)} |"
            )
    return "\n".join(lines)


def _share(case: Record, rates: dict[str, float]) -> str:
    """The least time that the machine's rates allow over ours; of what moves both ways, the copy rate."""
    seconds = Spread.of(case["microseconds"][OURS]).median * 1e-6
    if "operations" in case:
        floor = max(
            case["operations"] / rates["bf16_flop_per_s"], case["moved_bytes"] / rates["read_bytes_per_s"]
        )
        return f"{floor / seconds:.3f}"
    return f"{case['moved_bytes'] / rates['copy_bytes_per_s'] / seconds:.3f}" if "moved_bytes" in case else ""


def _ceilings(rates: dict[str, float]) -> str:
    return (
        f"copy {rates['copy_bytes_per_s'] / 1e12:.2f} TB/s, read {rates['read_bytes_per_s'] / 1e12:.2f} TB/s, "
        f"bf16 product {rates['bf16_flop_per_s'] / 1e12:.0f} TFLOP/s"
    )


def _machine(device: str, info: Record) -> Record:
    facts = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "kernels": info,
        "date": time.strftime("%Y-%m-%d"),
    }
    if device == "cpu":
        return facts | {"device": "cpu: a try of the harness, no measurement"}
    query = [
        "nvidia-smi",
        "--query-gpu=name,driver_version,clocks.sm,clocks.mem,power.draw",
        "--format=csv,noheader",
    ]
    try:
        told = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError) as problem:
        told = f"nvidia-smi: {problem}"
    return facts | {"device": torch.cuda.get_device_name(), "cuda": torch.version.cuda, "nvidia-smi": told}


if __name__ == "__main__":
    sys.exit(main())
