"""The programs for a model of one's own over ranks, as the page has them: they run, and give what the formulas give."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import trtllm_ext as tx
from trtllm_ext import parallel
from trtllm_ext.checkpoint import expected_weights
from trtllm_ext.models import sublayer_stack_config
from trtllm_ext.parallel import run_ranks
from trtllm_ext.parallel.launch import launcher_options

BUDGET_S = 8

PAGE = (Path(__file__).parent.parent / "docs" / "tensor_parallel.md").read_text()
SECTION = PAGE.split("## A model of your own\n")[1].split("\n## ")[0]
HIDDEN, FFN, LAYERS = 64, 256, 4
# Messages of mpi4py's own, which the page's lines know nothing of.
BESIDE = """
from mpi4py import MPI
assert MPI.COMM_WORLD.bcast(MPI.COMM_WORLD.rank) == 0
"""


@pytest.fixture
def folder(tmp_path, monkeypatch, one_thread):
    """A folder with the engine of the page's first program, of weights and an input that are drawn here."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    config = sublayer_stack_config(hidden_size=HIDDEN, ffn_hidden_size=FFN, num_hidden_layers=LAYERS)
    weights = {name: rng.normal(scale=0.1, size=shape) for name, shape in expected_weights(config).items()}
    np.savez("weights.npz", **{name: value.astype(np.float32) for name, value in weights.items()})
    np.save("x.npy", rng.normal(size=(5, HIDDEN)).astype(np.float32))
    exec(programs()[0], {})
    return tmp_path


def programs():
    build, run = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
    return build, run


def formula():
    """x + proj(max(fc(layer_norm(x)), 0)) a layer, in float64."""
    x = np.load("x.npy").astype(np.float64)
    weights = {name: value.astype(np.float64) for name, value in np.load("weights.npz").items()}
    for i in range(LAYERS):
        own = {
            name.split(".", 3)[3]: w
            for name, w in weights.items()
            if name.startswith(f"transformer.layers.{i}.")
        }
        (norm,) = {name.rpartition(".")[0] for name in own if "norm" in name}
        spread = np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        y = (x - x.mean(-1, keepdims=True)) / spread * own[f"{norm}.weight"] + own[f"{norm}.bias"]
        y = np.maximum(y @ own["mlp.fc.weight"].T + own["mlp.fc.bias"], 0)
        x = x + y @ own["mlp.proj.weight"].T + own["mlp.proj.bias"]
    return x


def check(y):
    expected = formula()
    assert np.abs(y - expected).max() < 1e-5 * np.abs(expected).max()


def test_the_first_program_deals_out_whole_weights(folder):
    def run(communicator):
        with tx.Session.from_engine_dir("engine", communicator=communicator) as session:
            return session.run({"hidden_states": np.load("x.npy")})["hidden_states_out"]

    results = run_ranks(2, run)
    check(results[0])
    assert results[0].tobytes() == results[1].tobytes()


@pytest.mark.parametrize("before", [pytest.param("", marks=pytest.mark.long), BESIDE])
def test_the_second_program_runs_under_a_launcher_with_mpi4py_beside_it(folder, mpi_launcher, before):
    program = programs()[1]
    assert "mpi4py" not in program
    (folder / "program.py").write_text(before + program + BESIDE)
    options = launcher_options(mpi_launcher, ["TRTLLM_EXT_NUM_THREADS"])
    run = subprocess.run(
        [*mpi_launcher, *options, "-n", "2", sys.executable, "program.py"],
        env={**os.environ, "TRTLLM_EXT_RANK_TIMEOUT": "30"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == f"(5, {HIDDEN})\n"
    check(np.load("y.npy"))


def test_what_programs_over_ranks_need_is_named_and_there():
    named = set(re.findall(r"`(\w+)\(", SECTION))
    assert named == {"launched_rank", "launched_size", "world", "run_ranks", "LocalWorld"}
    assert named <= set(parallel.__all__)
