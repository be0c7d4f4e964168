"""The demo's steps run, and the vectors that it compares with are what transformers gives."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trtllm_ext.parallel.launch import launcher_options

BUDGET_S = 30

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.long
def test_the_reference_vectors_are_what_transformers_gives(minilm_dir):
    pytest.importorskip("torch", reason="torch is not installed (make test installs it)")
    pytest.importorskip("transformers", reason="transformers is not installed (make test installs it)")
    script = load("make_reference")
    stored = np.load(script.REFERENCE)["sentence_embedding"]
    fresh = script.reference_vectors(script.SENTENCES.read_text().splitlines(), minilm_dir)
    assert stored.shape == fresh.shape == (7, 384)
    np.testing.assert_allclose(fresh, stored, rtol=0, atol=1e-6)


def test_the_demo_runs_and_agrees(tmp_path, minilm_dir):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    run = subprocess.run(
        ["sh", str(EXAMPLES / "demo.sh"), str(tmp_path / "out")],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "cosine similarity" in run.stdout
    assert "within 0.0001" in run.stdout
    vectors = np.load(tmp_path / "out" / "vectors.npz")["sentence_embedding"]
    similar = vectors @ vectors.T
    # Sentences 1 and 2 are about music, 5 and 6 about the weather.
    assert similar[0, 1] > 0.4 > similar[0, 4]
    assert similar[4, 5] > 0.4


@pytest.mark.parametrize(
    ("change", "code", "says"), [(0.0, 0, "(within 0.0001)"), (1e-3, 1, "(ABOVE 0.0001)")]
)
def test_the_comparison_can_fail(tmp_path, change, code, says):
    vectors = np.load(EXAMPLES / "reference_vectors.npz")["sentence_embedding"]
    np.savez(tmp_path / "ours.npz", sentence_embedding=vectors + np.float32(change))
    command = [sys.executable, str(EXAMPLES / "compare_vectors.py"), str(tmp_path / "ours.npz")]
    run = subprocess.run(
        [*command, str(EXAMPLES / "reference_vectors.npz")], capture_output=True, text=True, check=False
    )
    assert run.returncode == code
    assert says in run.stdout


def test_the_comparison_says_how_it_is_called():
    command = [sys.executable, str(EXAMPLES / "compare_vectors.py")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert run.stderr == "usage: compare_vectors.py OURS.npz REFERENCE.npz [TOLERANCE]\n"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("own_sublayer.py", r"largest difference from NumPy: \S+e-0[67]\n"),
        ("own_layer_on_ranks.py", r"largest difference from NumPy: \S+e-0[67]\n"),
        ("own_plugin/soft_cap.py", r"largest value 3\d\.\d became 5\.0; largest error \S+e-0[67]\n"),
        ("tap_a_stack.py", r"(transformer\.layers\.\d\.mlp\.contribution: .+\n){4}.+ within \S+e-0[67]\n"),
        (
            "steer_a_stack.py",
            r"(layer \d: dropped 0\.\d+, its mean in its place 0\.\d+\n){4}steered .* by (0\.00, ){4}\S+\n",
        ),
    ],
)
def test_an_example_runs_and_checks_itself(tmp_path, name, says):
    run = subprocess.run(
        [sys.executable, str(EXAMPLES / name)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert re.fullmatch(says, run.stdout), run.stdout


@pytest.mark.long  # by default, tests/test_docs_of_ranks.py has a program under a launcher
def test_a_layer_on_ranks_runs_under_a_launcher_and_only_rank_0_prints(mpi_launcher, tmp_path, one_thread):
    options = launcher_options(mpi_launcher, ["TRTLLM_EXT_NUM_THREADS"])
    run = subprocess.run(
        [*mpi_launcher, *options, "-n", "2", sys.executable, str(EXAMPLES / "own_layer_on_ranks.py")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert re.fullmatch(r"largest difference from NumPy: \S+e-0[67]\n", run.stdout), run.stdout
