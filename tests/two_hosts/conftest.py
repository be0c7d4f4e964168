"""Two hosts, MPICH's launcher, and an engine of two ranks."""

import subprocess

import numpy as np
import pytest
from host_runs import HIDDEN, LAYERS, RATE, TOKENS
from hosts import HostsError, two_hosts

import trtllm_ext as tx
from trtllm_ext.checkpoint.sharding import with_ranks
from trtllm_ext.models import sublayer_stack_config, write_random_checkpoint
from trtllm_ext.runtime.ranks.rehearsal import Rehearsal


@pytest.fixture
def hosts(tmp_path):
    try:
        with two_hosts(tmp_path) as made:
            yield made
    except HostsError as error:
        pytest.skip(f"two hosts cannot be made here: {error}")


@pytest.fixture
def slow_hosts(hosts):
    """With a cable that takes long enough to be cut meanwhile."""
    try:
        hosts.limit(RATE)
    except HostsError as error:
        pytest.skip(f"the cable between the hosts cannot be slowed down: {error}")
    return hosts


@pytest.fixture(scope="session")
def launcher(mpi_launcher):
    version = subprocess.run(
        [mpi_launcher[0], "--version"], capture_output=True, text=True, check=False
    ).stdout
    if "HYDRA" not in version:
        pytest.skip(f"{mpi_launcher[0]} is not MPICH's, whose options the test knows")
    return mpi_launcher[0]


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """A folder with an engine of two ranks, an input, and the output of both ranks in one process."""
    folder = tmp_path_factory.mktemp("engine")
    stack = sublayer_stack_config(hidden_size=HIDDEN, ffn_hidden_size=64, num_hidden_layers=LAYERS)
    write_random_checkpoint(folder / "checkpoint", with_ranks(stack, 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRTLLM_EXT_NUM_THREADS", "1")
        limits = tx.BuildConfig(max_num_tokens=TOKENS, opt_num_tokens=TOKENS)
        tx.build_engine_dir(folder / "checkpoint", folder / "engine", limits)
        values = np.random.default_rng(0).normal(size=(TOKENS, HIDDEN)).astype(np.float32)
        with Rehearsal(folder / "engine") as rehearsal:
            inputs = {rehearsal.sessions[0].inputs[0].name: values}
            np.savez(folder / "expected.npz", **rehearsal.run(inputs)[0])
    np.savez(folder / "input.npz", **inputs)
    return folder
