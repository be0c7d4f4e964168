"""`run` and `embed` as several ranks, really started by the machine's MPI launcher."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from trtllm_ext.cli import main as cli
from trtllm_ext.models.random import write_random_checkpoint
from trtllm_ext.models.sublayer_stack import sublayer_stack_config
from trtllm_ext.parallel import Mapping
from trtllm_ext.parallel.launch import launcher_options
from trtllm_ext.runtime.ranks.rehearsal import Rehearsal

BUDGET_S = 8  # a launch of two ranks, with the imports of each, takes two

LIMIT_S = 15
PROGRAM = [sys.executable, "-m", "trtllm_ext"]
ENVIRONMENT = {"TRTLLM_EXT_NUM_THREADS": "1", "TRTLLM_EXT_RANK_TIMEOUT": "3"}


@pytest.fixture(scope="module")
def mpiexec(mpi_launcher):
    return [*mpi_launcher, *launcher_options(mpi_launcher)]


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    config = sublayer_stack_config(hidden_size=16, ffn_hidden_size=32, num_hidden_layers=2)
    config = replace(config, mapping=Mapping(world_size=2, tp_size=2))
    write_random_checkpoint(folder / "checkpoint", config)
    arguments = ["--checkpoint_dir", f"{folder}/checkpoint", "--output_dir", f"{folder}/engine"]
    assert cli.main(["build", *arguments, "--max_num_tokens", "32"]) == 0
    return folder / "engine"


@pytest.fixture
def files(tmp_path):
    """Input and output file, and the values of the input."""
    x = np.random.default_rng(3).standard_normal((5, 16), dtype=np.float32)
    np.savez(tmp_path / "input.npz", hidden_states=x)
    return tmp_path / "input.npz", tmp_path / "output.npz", x


def arguments_of(engine, source, target):
    return ["run", "--engine_dir", str(engine), "--input", str(source), "--output", str(target)]


def ended(command, **settings):
    """Exit code, stdout and stderr of what must end by itself."""
    begin = time.monotonic()
    done = subprocess.run(
        command,
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        timeout=2 * LIMIT_S,
        check=False,
        **settings,
    )
    assert time.monotonic() - begin < LIMIT_S, done
    return done.returncode, done.stdout, done.stderr


def check_output(engine, files):
    _, target, x = files
    with Rehearsal(engine) as rehearsal:
        expected = rehearsal.run({"hidden_states": x})[0]["hidden_states_out"]
    with np.load(target) as stored:
        assert stored["hidden_states_out"].tobytes() == expected.tobytes()


@pytest.mark.long
def test_under_a_launcher(mpiexec, engine, files, one_thread):
    source, target, _ = files
    code, out, err = ended([*mpiexec, "-n", "2", *PROGRAM, *arguments_of(engine, source, target)])
    assert (code, err) == (0, "")
    assert out == f"{target}: hidden_states_out float32 (5, 16)\n"
    check_output(engine, files)


def test_nproc_starts_the_launcher(mpiexec, engine, files, one_thread):
    source, target, _ = files
    code, out, err = ended([*PROGRAM, *arguments_of(engine, source, target), "--nproc", "2"])
    assert (code, err) == (0, "")
    assert out == f"{target}: hidden_states_out float32 (5, 16)\n"
    check_output(engine, files)


@pytest.mark.long
def test_inputs_whose_shapes_differ(mpiexec, engine, files):
    source, target, x = files
    other = source.with_name("other.npz")
    np.savez(other, hidden_states=x[:3])
    ranks = [["-n", "1", *PROGRAM, *arguments_of(engine, each, target)] for each in (source, other)]
    code, out, err = ended([*mpiexec, *ranks[0], ":", *ranks[1]])
    assert code != 0
    assert "'hidden_states' differs between ranks: shape (5, 16) on rank 0; shape (3, 16) on rank 1" in err
    assert err.count("trtllm-ext: error: ") == 1
    assert (out, target.exists()) == ("", False)


def test_a_rank_whose_engine_is_missing(mpiexec, engine, files, tmp_path):
    import shutil

    source, target, _ = files
    copy = shutil.copytree(engine, tmp_path / "copy")
    (copy / "rank1.engine").unlink()
    code, out, err = ended([*PROGRAM, *arguments_of(copy, source, target), "--nproc=2"])
    assert code != 0
    assert re.search(r"^trtllm-ext: error: rank 1: .*has no rank1\.engine", err, re.MULTILINE), err
    assert (out, target.exists()) == ("", False)


KILLED = f"""
import os, sys
from trtllm_ext.cli.main import main
from trtllm_ext.runtime import Session
run, runs = Session.run, []
def killed(self, inputs):
    runs.append(1)
    if len(runs) == 2:  # the first is the known answer's
        from trtllm_ext.embedded.running.collective_call import CollectiveCall
        CollectiveCall.run = lambda *given: os.kill(os.getpid(), {int(signal.SIGKILL)})
    return run(self, inputs)
Session.run = killed
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.long  # by default, tests/faults has one like it
def test_a_rank_that_is_killed_in_a_run(mpiexec, engine, files):
    source, target, _ = files
    arguments = arguments_of(engine, source, target)
    command = ["-n", "1", *PROGRAM, *arguments, ":", "-n", "1", sys.executable, "-c", KILLED, *arguments]
    code, out, err = ended([*mpiexec, *command])
    assert code != 0
    assert re.search(r"rank 1 (was ended by signal 9|has died)", err), err
    assert "hidden_states_out" not in out
    assert not target.exists()


@pytest.mark.long
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (["--nproc", "3"], "the engine was built for 2 ranks, this world has 3; start it with mpirun -n 2"),
        (["--nproc", "2", "--input", "no/x.npz"], "error: no/x.npz does not exist"),
        (["--nproc", "2", "--output", "no/x.npz"], "error: rank 0: .*there is no directory no"),
    ],
)
def test_what_all_ranks_are_told(mpiexec, engine, files, change, sentence):
    source, target, _ = files
    code, out, err = ended([*PROGRAM, *arguments_of(engine, source, target), *change])
    assert code != 0
    assert re.search(sentence, err), err
    assert (out, target.exists()) == ("", False)


@pytest.mark.long
def test_values_that_differ(mpiexec, engine, files):
    source, target, x = files
    other = source.with_name("other.npz")
    np.savez(other, hidden_states=x + 1)
    ranks = [["-n", "1", *PROGRAM, *arguments_of(engine, each, target)] for each in (source, other)]
    code, _, err = ended([*mpiexec, *ranks[0], ":", *ranks[1]])
    assert code != 0
    assert "input 'hidden_states' has other values on rank 1 than on rank 0" in err
    assert not target.exists()


@pytest.mark.long
def test_embed(mpiexec, minilm_dir, build_encoder, tmp_path):
    """Two ranks give the vectors that one gives; the sentences come by stdin, which launchers give to rank 0."""
    one, two = build_encoder(16), tmp_path / "engine"
    split = ["--model_dir", str(minilm_dir), "--output_dir", f"{tmp_path}/checkpoint", "--tp_size", "2"]
    assert cli.main(["convert", *split]) == 0
    limits = ["--max_batch_size", "2", "--max_input_len", "16"]
    assert (
        cli.main(["build", "--checkpoint_dir", f"{tmp_path}/checkpoint", "--output_dir", f"{two}", *limits])
        == 0
    )
    text = "A cat sits on the mat.\nRain falls.\nA kitten rests on a rug.\n"
    for engine, target, options in ((one, "one.npz", []), (two, "two.npz", ["--nproc", "2"])):
        paths = ["--engine_dir", str(engine), "--sentences", "-", "--output", str(tmp_path / target)]
        code, out, err = ended([*PROGRAM, "embed", *paths, *options], input=text)
        assert (code, err) == (0, "")
        assert out.count("cosine similarity") == 1
    with np.load(tmp_path / "one.npz") as left, np.load(tmp_path / "two.npz") as right:
        (name,) = left.files
        np.testing.assert_allclose(left[name], right[name], atol=1e-5 * np.abs(left[name]).max())


# --- without a launcher ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "was built for 2 ranks, which run as 2 processes"),
        (["--rank", "1"], "was built for 2 ranks, which run as 2 processes"),
        (["--nproc", "0"], "--nproc 0 is no number of ranks"),
        (["--nproc", "2", "--rank", "1"], "--rank 1 says whose engine one process loads alone"),
        (["--nproc", "1"], "was built for 2 ranks"),
    ],
)
def test_refusals(engine, files, capsys, options, message):
    source, target, _ = files
    assert cli.main([*arguments_of(engine, source, target), *options]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not target.exists()


def test_nproc_inside_a_launcher(engine, files, capsys, monkeypatch):
    monkeypatch.setenv("PMI_RANK", "1")
    monkeypatch.setenv("PMI_SIZE", "2")
    source, target, _ = files
    assert cli.main([*arguments_of(engine, source, target), "--nproc", "2"]) == 1
    assert "this is one already: rank 1 of 2 of MPICH's mpiexec" in capsys.readouterr().err


def test_inspect_looks_at_one_rank_alone(engine, capsys):
    assert cli.main(["inspect", str(engine), "--rank", "1"]) == 0
    out = capsys.readouterr().out
    assert "rank 1 of 2" in out
    assert "DIST_COLLECTIVE" in out
    assert "cannot be loaded" not in out
