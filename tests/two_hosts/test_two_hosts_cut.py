"""Two ranks on two hosts whose cable is cut in the middle of a run: each side ends, and says what it does not hear."""

import pytest
from host_runs import await_end, cut_in_the_middle, ranks_on, run_command, started
from hosts import ADDRESSES, NAMES

BUDGET_S = 8

# By default: the same cut under `--nproc`, in test_two_hosts_cut_nproc.py, and what either side says of a silent one,
# in parallel/test_monitor.py. For as long as the ranks wait for each other, MPI keeps a processor busy.
pytestmark = pytest.mark.long

# What each rank says, and its exit code, go to a file of its own; what a launcher passes on is lost with the cable.
TO_FILE = ["sh", "-c", 'file=$1.$PMI_RANK; shift; "$@" 2> "$file"; echo "exit code $?" >> "$file"', "rank"]


def test_a_cut_cable_ends_the_ranks_on_both_sides(slow_hosts, launcher, files, tmp_path):
    output = tmp_path / "output.npz"
    mpiexec = [*slow_hosts.mpiexec(launcher), "-n", "2"]
    process = started(slow_hosts, [*mpiexec, *TO_FILE, str(tmp_path / "said"), *run_command(files, output)])
    begin = cut_in_the_middle(slow_hosts, process)
    for host in (0, 1):
        await_end(lambda host=host: ranks_on(slow_hosts, host), begin)
    others = (f"rank 1 on {NAMES[1]}", f"rank 0 at {ADDRESSES[0]}")
    for rank, other in enumerate(others):
        said = (tmp_path / f"said.{rank}").read_text()
        told = f"trtllm-ext: rank {rank} of 2 ends: {other} has not been heard of for 5 s: "
        assert f"{told}the host is down, or the network to it is cut\n" in said
        assert said.endswith("exit code 1\n")
    assert not output.exists() and not list(tmp_path.glob("output*"))
    # MPICH's launcher waits for the host that it does not hear of; the watcher beside rank 0 ends it.
    await_end(lambda: slow_hosts.processes(0), begin)
    process.communicate()
    assert process.returncode != 0
