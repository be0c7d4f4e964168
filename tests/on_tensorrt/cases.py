"""Runs cases side by side, each in a process of its own with a time limit, and keeps one JSON line of each at once.

A script that has cases ends with `main(__file__, CASES)`, and is then called so:

    python SCRIPT FILE [--engine tensorrt|embedded] [--processes N] [--limit S] [--seconds S] [--only REGEX]

A case is a function that returns what is to be told of it, as a dict, or raises. Its line has `name`, `came` ("ok",
"wrong" for an AssertionError, "raised", "crashed", "timeout", "not run"), `seconds`, and `why`.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

from trtllm_ext import backend

Line = dict[str, Any]
Case = Callable[[], Line]
_ROOT = Path(__file__).resolve().parents[2]
_MARK = "CASE-RESULT "
# No more threads than the one: the cases share out the cores.
_QUIET = {"CUDA_MODULE_LOADING": "LAZY", "TRTLLM_EXT_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def environment(engine: str) -> dict[str, str]:
    """For a process on this engine ("tensorrt" or "embedded"), with this checkout's modules."""
    paths = [_ROOT, _ROOT / "tests", Path(__file__).parent, os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(str(each) for each in paths if str(each))
    return {**os.environ, **_QUIET, "PYTHONPATH": path, backend.ENVIRONMENT_VARIABLE: engine}


def engine() -> str:
    """The engine that this process's cases are about."""
    return backend.choice().engine


def run_case(script: str, name: str, limit: float, on: str) -> Line:
    """One case in a process of its own, all of which is ended after `limit` seconds."""
    begin = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, script, "--case", name],
        env=environment(on),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # so that a limit ends what the case has started, too
    )
    ended = False
    try:
        output, _ = process.communicate(timeout=limit)
        ended = True
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
    line: Line = {"name": name, "seconds": round(time.monotonic() - begin, 1)}
    marked = [each for each in output.splitlines() if each.startswith(_MARK)]
    if marked:
        return line | json.loads(marked[-1].removeprefix(_MARK))
    if not ended:
        return line | {"came": "timeout", "why": f"not done in {limit:.0f} s; {output[-300:]}"}
    return line | {"came": "crashed", "why": f"exit code {process.returncode}; {output[-1500:]}"}


def _told(case: Case) -> Line:
    try:
        return {"came": "ok", **case()}
    except AssertionError as problem:
        return {"came": "wrong", "why": str(problem)[:1500] or traceback.format_exc()[-1500:]}
    except Exception:  # the line tells of it
        return {"came": "raised", "why": traceback.format_exc()[-2000:]}


def run_all(script: str, names: list[str], path: Path, options: argparse.Namespace) -> list[Line]:
    """Run the cases, `options.processes` at a time; each line goes to the end of the file when its case has ended."""
    until = time.monotonic() + options.seconds
    lock = threading.Lock()
    lines: list[Line] = []

    def one(name: str) -> None:
        left = min(options.limit, until - time.monotonic())
        if left < 1:
            line: Line = {"name": name, "came": "not run", "seconds": 0, "why": "no time was left"}
        else:
            line = run_case(script, name, left, options.engine)
        with lock:
            lines.append(line)
            with path.open("a", encoding="utf-8") as out:
                out.write(json.dumps(line) + "\n")
            why = str(line.get("why", "")).strip().replace("\n", " | ")
            sys.stdout.write(f"{line['came']:8} {line['seconds']:6} s  {name}  {why[-300:]}\n")
            sys.stdout.flush()

    with ThreadPool(options.processes) as pool:
        pool.map(one, names, chunksize=1)
    return lines


def main(script: str, cases: Mapping[str, Case]) -> int:
    """The command line of a script of cases; returns the exit code, 1 when a case did not come out "ok"."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--case")
    parser.add_argument("--engine", choices=("tensorrt", "embedded"), default="tensorrt")
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--limit", type=float, default=120.0, metavar="SECONDS", help="of one case")
    parser.add_argument("--seconds", type=float, default=3600.0, help="of all together")
    parser.add_argument("--only", default="", metavar="REGEX", help="cases whose names begin so")
    options = parser.parse_args()
    if options.case:
        sys.stdout.write(f"\n{_MARK}{json.dumps(_told(cases[options.case]))}\n")
        return 0
    names = [name for name in cases if re.match(options.only, name)]
    lines = run_all(script, names, options.file, options)
    counts = dict(Counter(line["came"] for line in lines))
    sys.stdout.write(f"{len(lines)} cases on {options.engine}: {counts}\n")
    return int(counts.get("ok", 0) < len(names))
