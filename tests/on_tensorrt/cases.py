"""Runs cases in warm worker processes, each with a time limit, and keeps one JSON line of each at once.

A script that has cases ends with `main(__file__, CASES)`, and is then called so:

    python SCRIPT FILE [--engine tensorrt|embedded] [--processes N] [--limit S] [--seconds S] [--only REGEX]

A case is a function that returns what is to be told of it, as a dict, or raises. Its line has `name`, `came` ("ok",
"wrong" for an AssertionError, "refused", "raised", "crashed", "timeout", "not run"), `seconds`, and `why`. A worker
runs one case after another; the one that hangs or crashes is replaced, as a library that has loaded its kernels is
worth keeping.
"""

import argparse
import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
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
_NO_TIME: Line = {"came": "not run", "seconds": 0, "why": "no time was left"}


def environment(engine: str) -> dict[str, str]:
    """For a process on this engine ("tensorrt" or "embedded"), with this checkout's modules."""
    paths = [_ROOT, _ROOT / "tests", Path(__file__).parent, os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(str(each) for each in paths if str(each))
    return {**os.environ, **_QUIET, "PYTHONPATH": path, backend.ENVIRONMENT_VARIABLE: engine}


def engine() -> str:
    """The engine that this process's cases are about."""
    return backend.choice().engine


class Server:
    """A process that answers lines with marked lines: `python SCRIPT --serve`, which calls `serve`."""

    def __init__(self, script: str | Path, on: str, *, own_session: bool = False) -> None:
        # Not a pipe: what a library writes there can be of any length.
        self._log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - as long as the process
        self._own_session = own_session
        self.process = subprocess.Popen(
            [sys.executable, str(script), "--serve"],
            env=environment(on),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            errors="replace",
            start_new_session=own_session,  # so that its end ends what it has started, too
        )
        self._answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def ask(self, request: Any, limit: float | None = None) -> Any:
        """The answer to a request, both plain data; queue.Empty after the limit, EOFError when the process ends."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except OSError as gone:
            raise EOFError(self.last_words()) from gone
        answer = self._answers.get(timeout=limit)
        if answer is None:
            raise EOFError(self.last_words())
        return json.loads(answer)

    def last_words(self) -> str:
        """How the process ended, and the end of what it wrote to stderr."""
        code = self.process.wait(10)
        self._log.seek(0)
        return f"exit code {code}; {self._log.read()[-1500:]}"

    def kill(self) -> None:
        """End the process, and with `own_session` all that it has started."""
        if self._own_session:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(_MARK):
                self._answers.put(line.removeprefix(_MARK))
        self._answers.put(None)


def serve(answer: Callable[[Any], Any]) -> None:
    """Answer requests on stdin until it ends; whatever else is written to stdout is left aside."""
    for request in sys.stdin:
        told = json.dumps(answer(json.loads(request)))
        sys.stdout.write(f"\n{_MARK}{told}\n")
        sys.stdout.flush()


def _told(case: Case) -> Line:
    begin = time.monotonic()
    try:
        line: Line = {"came": "ok", **case()}
    except AssertionError as problem:
        line = {"came": "wrong", "why": str(problem)[:1500] or traceback.format_exc()[-1500:]}
    except Exception:  # the line tells of it
        line = {"came": "raised", "why": traceback.format_exc()[-2000:]}
    return {"seconds": round(time.monotonic() - begin, 1), **line}


def run_case(script: str, name: str, limit: float, on: str) -> Line:
    """One case of a script in a process of its own."""
    worker = _Worker(script, on)
    try:
        return worker.run(name, limit)
    finally:
        worker.end()


class _Worker:
    """Runs cases in a process that is replaced when it hangs or ends."""

    def __init__(self, script: str, on: str) -> None:
        self._script, self._on = script, on
        self._server: Server | None = None

    def run(self, name: str, limit: float) -> Line:
        self._server = self._server or Server(self._script, self._on, own_session=True)
        begin = time.monotonic()
        try:
            return {"name": name, **self._server.ask(name, limit)}
        except queue.Empty:
            self.end()
            line = {"came": "timeout", "why": f"not done in {limit:.0f} s"}
        except EOFError as gone:
            self.end()
            line = {"came": "crashed", "why": str(gone)}
        return {"name": name, "seconds": round(time.monotonic() - begin, 1), **line}

    def end(self) -> None:
        if self._server is not None:
            self._server.kill()
            self._server = None


def run_all(script: str, names: list[str], path: Path, options: argparse.Namespace) -> list[Line]:
    """Run the cases in their order, shared out among `options.processes`; each line is written when its case ends."""
    until = time.monotonic() + options.seconds
    lock = threading.Lock()
    lines: list[Line] = []
    left = iter(names)

    def write(line: Line) -> None:
        lines.append(line)
        with path.open("a", encoding="utf-8") as out:
            out.write(json.dumps(line) + "\n")
        if line["came"] == "not run":
            return
        why = str(line.get("why", "")).strip().replace("\n", " | ")
        sys.stdout.write(f"{line['came']:8} {line['seconds']:6} s  {line['name']}  {why[-300:]}\n")
        sys.stdout.flush()

    def names_left() -> Iterator[str]:
        while True:
            with lock:
                name = next(left, None)
            if name is None:
                return
            yield name

    def work(_: int) -> None:
        worker = _Worker(script, options.engine)
        for name in names_left():
            limit = min(options.limit, until - time.monotonic())
            line = {"name": name, **_NO_TIME} if limit < 1 else worker.run(name, limit)
            with lock:
                write(line)
        worker.end()

    with ThreadPool(options.processes) as pool:
        pool.map(work, range(options.processes), chunksize=1)
    return lines


def main(script: str, cases: Mapping[str, Case]) -> int:
    """The command line of a script of cases; returns the exit code, 1 when a case did not come out "ok"."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--engine", choices=("tensorrt", "embedded"), default="tensorrt")
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--limit", type=float, default=120.0, metavar="SECONDS", help="of one case")
    parser.add_argument("--seconds", type=float, default=3600.0, help="of all together")
    parser.add_argument("--only", default="", metavar="REGEX", help="cases whose names begin so")
    options = parser.parse_args()
    if options.serve:
        serve(lambda name: _told(cases[name]))
        return 0
    names = [name for name in cases if re.match(options.only, name)]
    lines = run_all(script, names, options.file, options)
    counts = dict(Counter(line["came"] for line in lines))
    sys.stdout.write(f"{len(lines)} cases on {options.engine}: {counts}\n")
    return int(counts.get("ok", 0) < len(names))
