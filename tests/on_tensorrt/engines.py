"""Engines built as a user's are, by the command `trtllm-ext build`, and run by processes that have built none.

Commands on this process's own engine run in it, as it has loaded the library; what is to be loaded and run, and what
is of the other engine, goes to processes that are kept: `python engines.py --serve`.
"""

import contextlib
import functools
import io
import json
import os
import tempfile
import time
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cases
import numpy as np
from ml_dtypes import bfloat16

import trtllm_ext as tx
from trtllm_ext.cli.main import main as trtllm_ext
from trtllm_ext.errors import TrtllmExtError

Arrays = dict[str, np.ndarray[Any, Any]]
_BFLOAT16 = "|bfloat16"
_TOLD = "trtllm-ext: error: "
# In the sentence of a build for which TensorRT 8.6 has nothing in half precision.
NO_KERNEL = "It has no kernel for this network in"


class RefusedError(Exception):
    """A command of ours that ended with a sentence, which is this exception's text."""


def command(*arguments: str | Path, on: str) -> str:
    """Standard output of `trtllm-ext ARGUMENTS` on an engine.

    Raises RefusedError for the sentence that it ends with, AssertionError for any other end.
    """
    words = [*map(str, arguments)]
    if on == cases.engine():
        return _output(words, _commanded(words))
    return _output(words, _asked(on, {"command": words}))


def build(
    checkpoint: Path, directory: Path, settings: dict[str, Any], *flags: str, on: str
) -> tuple[Path, float]:
    """An engine directory of a checkpoint, and the seconds that its process took; settings: a BuildConfig's."""
    file = directory.with_suffix(".json")
    file.write_text(json.dumps({**(timings() if on == "tensorrt" else {}), **settings}))
    given = ("--checkpoint_dir", checkpoint, "--output_dir", directory, "--build_config", file)
    begin = time.monotonic()
    command("build", *given, *flags, on=on)
    return directory, time.monotonic() - begin


def timings() -> dict[str, str]:
    """Settings by which the builds of this process measure the same thing once only."""
    file = Path(tempfile.gettempdir(), f"timings-{os.getpid()}.cache")
    return {"output_timing_cache": str(file), **({"input_timing_cache": str(file)} if file.exists() else {})}


def run(directory: Path, inputs: Iterable[Arrays], *, on: str) -> list[Arrays]:
    """What an engine directory gives for each input, in a process that has not built it."""
    files = []
    for number, arrays in enumerate(inputs):
        files += [directory.with_suffix(f".{on}.{number}.{way}.npz") for way in ("in", "out")]
        _save(files[-2], arrays)
    _output(["run", str(directory)], _asked(on, {"run": [str(directory), *map(str, files)]}))
    return [_load(file) for file in files[1::2]]


def _save(path: str | Path, arrays: Arrays) -> None:
    """As numpy.savez, which would forget that two bytes are a bfloat16."""
    raw = {}
    for name, each in arrays.items():
        if each.dtype == bfloat16:
            raw[f"{name}{_BFLOAT16}"] = each.view(np.uint16)
        else:
            raw[name] = each
    np.savez(path, **raw)


def _load(path: str | Path) -> Arrays:
    return {
        name.removesuffix(_BFLOAT16): each.view(bfloat16) if name.endswith(_BFLOAT16) else each
        for name, each in np.load(path).items()
    }


@functools.cache
def _server(on: str) -> list[cases.Server]:
    """Holds the process for `on`, if there is one."""
    return []


def _asked(on: str, request: dict[str, list[str]]) -> cases.Line:
    kept = _server(on)
    if not kept:
        kept.append(cases.Server(__file__, on))
    try:
        answer: cases.Line = kept[0].ask(request)
    except EOFError as gone:
        kept.clear()
        raise AssertionError(f"{request} ended its process: {gone}") from gone
    return answer


def _output(words: list[str], ended: cases.Line) -> str:
    """What a command or a run wrote, or why it ended."""
    if ended["code"] == 0:
        return str(ended["out"])
    errors = ended["err"]
    sentences = [each for each in errors.splitlines() if each.startswith(_TOLD)]
    if ended["code"] == 1 and sentences and "not expected;" not in sentences[-1]:
        raise RefusedError(errors[errors.rindex(_TOLD) + len(_TOLD) :].strip())
    raise AssertionError(f"{' '.join(words[:3])} ended with {ended['code']}: {errors[-1500:]}")


def _commanded(words: list[str]) -> cases.Line:
    """A command of `trtllm-ext` in this process: its exit code and what it wrote."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code: Any = trtllm_ext(words)
        except SystemExit as ended:
            code = ended.code
        except Exception:  # what would have ended the process
            code = traceback.format_exc()
            err.write(code)
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}


def difference(got: Arrays, want: Arrays) -> tuple[float, str]:
    """The largest difference of any output as a share of that output's largest value, and which output's it is."""
    assert set(got) == set(want), f"outputs {sorted(set(got) ^ set(want))} are not in both"
    worst = (0.0, "")
    for name, value in want.items():
        here = got[name]
        assert (here.dtype, here.shape) == (value.dtype, value.shape), f"{name}: {here.dtype} {here.shape}"
        one, other = here.astype(np.float64), value.astype(np.float64)
        assert np.isfinite(other).all(), f"{name}: the embedded engine's is not finite"
        assert np.isfinite(one).all(), f"{name}: not finite"
        largest = float(np.abs(one - other).max() / max(np.abs(other).max(), 1e-30))
        worst = max(worst, (largest, name))
    return worst


def _loaded(directory: str, *files: str) -> cases.Line:
    """An engine directory, loaded and run: files are IN.npz OUT.npz, any number of times."""
    try:
        with tx.Session.from_engine_dir(directory) as session:
            for source, target in zip(files[::2], files[1::2], strict=True):
                _save(target, session.run(_load(source)))
    except TrtllmExtError as problem:
        return {"code": 1, "out": "", "err": f"{_TOLD}{problem}\n"}
    except Exception:  # the case tells of it
        return {"code": 2, "out": "", "err": traceback.format_exc()}
    return {"code": 0, "out": "", "err": ""}


def _answer(request: dict[str, list[str]]) -> cases.Line:
    return _commanded(request["command"]) if "command" in request else _loaded(*request["run"])


if __name__ == "__main__":
    cases.serve(_answer)
