"""An engine of two ranks on two hosts, where the launcher starts them: the answer."""

import shlex

import numpy as np
import pytest
from host_runs import LIMIT_S, RUN_BYTES, run_command, started

from trtllm_ext.parallel.launch import LAUNCHER_VARIABLE

BUDGET_S = 8


@pytest.mark.parametrize("own", [pytest.param(False, marks=pytest.mark.long), True])
def test_the_answer_is_that_of_one_process(hosts, launcher, files, tmp_path, own):
    output = tmp_path / "output.npz"
    mpiexec, command = hosts.mpiexec(launcher), run_command(files, output)
    if own:
        process = started(hosts, [*command, "--nproc", "2"], **{LAUNCHER_VARIABLE: shlex.join(mpiexec)})
    else:
        process = started(hosts, [*mpiexec, "-n", "2", *command])
    out, err = process.communicate(timeout=4 * LIMIT_S)
    assert process.returncode == 0, err
    assert "trtllm-ext" not in err
    assert out.startswith(str(output))
    with np.load(output) as got, np.load(files / "expected.npz") as expected:
        assert got.files == expected.files
        for name in expected.files:
            np.testing.assert_array_equal(got[name], expected[name])
    assert hosts.sent() > RUN_BYTES  # and not through something that the hosts share
    assert not hosts.processes(0) and not hosts.processes(1)
