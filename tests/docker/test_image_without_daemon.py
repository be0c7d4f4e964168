"""The CPU image, built from its Dockerfile and tried by docker/build_without_daemon.py, where a machine lets it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

BUDGET_S = 3
SCRIPT = Path(__file__).parents[2] / "docker/build_without_daemon.py"


@pytest.mark.long
def test_the_cpu_image_is_built_and_does_what_it_is_for():
    check = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True, check=False)
    if check.returncode == 3:
        pytest.skip(check.stderr.strip())
    run = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=False)
    assert run.returncode == 0, f"{run.stdout[-4000:]}\n{run.stderr[-4000:]}"
    told = [line for line in run.stdout.splitlines() if re.match(r"(==|ok |image size|   )", line)]
    sys.stdout.write("\n".join(told))
    assert run.stdout.rstrip().endswith("everything passed")
    size = re.search(r"^image size: (\d+) MB", run.stdout, re.MULTILINE)
    assert size is not None and int(size[1]) <= 400


def test_a_machine_is_told_what_it_lacks(tmp_path):
    """Nothing is on an empty PATH; the sentence says what to install, and nothing is begun."""
    run = subprocess.run(
        [sys.executable, SCRIPT, "--check"],
        capture_output=True,
        text=True,
        env={"PATH": str(tmp_path)},
        check=False,
    )
    assert (run.returncode, run.stdout) == (3, "")
    assert re.match(r"the image cannot be built here: .*(Debian|apt-get install buildah)", run.stderr)
