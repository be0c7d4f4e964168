"""Checks in a process of their own: stand-ins and the choice of the graph API are for all of a process."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def environment(*more_paths, **more):
    """Of a process that finds these tests, the package, and what lies in `more_paths`."""
    paths = os.pathsep.join(map(str, (HERE, ROOT, *more_paths)))
    whole = {**os.environ, "PYTHONPATH": paths, "TRTLLM_EXT_NUM_THREADS": "1", **more}
    whole.pop("TRTLLM_EXT_BACKEND", None)
    return whole


def assert_passed(checks, plugin, cwd, env):
    """That all tests of the file `checks` pass. plugin: of pytest, which sets the stage."""
    options = [
        "-p",
        plugin,
        "-p",
        "no:hypothesispytest",
        "-p",
        "no:cacheprovider",
        "--noconftest",
        "-c",
        os.devnull,
    ]
    shown = ["-q", "--tb=short", "--show-capture=no", "-W", "ignore"]
    command = [sys.executable, "-m", "pytest", *options, *shown, "--rootdir", str(HERE), str(HERE / checks)]
    done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, check=False)
    sys.stdout.write(done.stdout[-2000:])
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
