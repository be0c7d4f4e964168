"""Engines built and run by processes of their own, as a user's are: `trtllm-ext build`, then a fresh process.

`python engines.py ENGINE_DIR IN.npz OUT.npz [IN.npz OUT.npz ...]` loads an engine directory and runs it on each input.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cases
import numpy as np
from ml_dtypes import bfloat16

import trtllm_ext as tx
from trtllm_ext.errors import TrtllmExtError

Arrays = dict[str, np.ndarray[Any, Any]]
_BFLOAT16 = "|bfloat16"
_TOLD = "trtllm-ext: error: "


class RefusedError(Exception):
    """A command of ours that ended with a sentence, which is this exception's text."""


def command(*arguments: str | Path, on: str) -> str:
    """Standard output of `trtllm-ext ARGUMENTS` on an engine.

    Raises RefusedError for the sentence that it ends with, AssertionError for any other end.
    """
    return _run([sys.executable, "-m", "trtllm_ext", *map(str, arguments)], on)


def build(
    checkpoint: Path, directory: Path, settings: dict[str, Any], *flags: str, on: str
) -> tuple[Path, float]:
    """An engine directory of a checkpoint, and the seconds that its process took; settings: a BuildConfig's."""
    file = directory.with_suffix(".json")
    file.write_text(json.dumps(settings))
    given = ("--checkpoint_dir", checkpoint, "--output_dir", directory, "--build_config", file)
    begin = time.monotonic()
    command("build", *given, *flags, on=on)
    return directory, time.monotonic() - begin


def run(directory: Path, inputs: Iterable[Arrays], *, on: str) -> list[Arrays]:
    """What an engine directory gives for each input, in a process that has not built it."""
    files = []
    for number, arrays in enumerate(inputs):
        files += [directory.with_suffix(f".{on}.{number}.{way}.npz") for way in ("in", "out")]
        _save(files[-2], arrays)
    _run([sys.executable, __file__, str(directory), *map(str, files)], on)
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


def _run(arguments: list[str], on: str) -> str:
    done = subprocess.run(
        arguments, env=cases.environment(on), capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode == 0:
        return done.stdout
    sentences = [each for each in done.stderr.splitlines() if each.startswith(_TOLD)]
    if done.returncode == 1 and sentences and "not expected;" not in sentences[-1]:
        raise RefusedError(done.stderr[done.stderr.rindex(_TOLD) + len(_TOLD) :].strip())
    raise AssertionError(f"{' '.join(arguments[1:4])} ended with {done.returncode}: {done.stderr[-1500:]}")


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


def _main(directory: str, *files: str) -> int:
    try:
        with tx.Session.from_engine_dir(directory) as session:
            for source, target in zip(files[::2], files[1::2], strict=True):
                _save(target, session.run(_load(source)))
    except TrtllmExtError as problem:
        sys.stderr.write(f"{_TOLD}{problem}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
