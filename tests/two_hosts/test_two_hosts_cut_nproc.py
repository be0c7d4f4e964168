"""`trtllm-ext run --nproc` over two hosts whose cable is cut in the middle of the run: all of it ends."""

import shlex

import pytest
from host_runs import LIMIT_S, await_end, cut_in_the_middle, run_command, started
from hosts import NAMES

from trtllm_ext.parallel.launch import LAUNCHER_VARIABLE

BUDGET_S = 8


# By default, ranks that fall silent are those of tests/parallel/test_monitor.py, on one host.
@pytest.mark.long
def test_the_launcher_of_our_own_ends_too_after_a_cut(slow_hosts, launcher, files, tmp_path):
    output = tmp_path / "output.npz"
    command = [*run_command(files, output), "--nproc", "2"]
    process = started(slow_hosts, command, **{LAUNCHER_VARIABLE: shlex.join(slow_hosts.mpiexec(launcher))})
    begin = cut_in_the_middle(slow_hosts, process)
    _, err = process.communicate(timeout=LIMIT_S)
    for host in (0, 1):
        await_end(lambda host=host: slow_hosts.processes(host), begin)
    assert process.returncode != 0
    last = err.splitlines()[-1]
    assert last.startswith(f"trtllm-ext: error: rank 1 on {NAMES[1]} has not been heard of for 5 s"), err
    assert not list(tmp_path.glob("output*"))
