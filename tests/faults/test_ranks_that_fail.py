"""Inputs that differ between ranks, and a rank that raises or is killed: all ranks end, and stderr says why."""

import signal

import pytest

BUDGET_S = 18

long = pytest.mark.long
BOTH = ["mpiexec", "nproc"]
LONG = [pytest.param(each, marks=long) for each in BOTH]
FIRST = [pytest.param("mpiexec", marks=long), "nproc"]
# Runs without an end, of which the test is told.
LOOP = "for n in range(10**9): run(); n == 3 and folder.joinpath(f'{rank}.runs').write_text('yes')"
SLOW_DISK = """
import numpy
write = numpy.lib.format.write_array
def slowly(*given, **more):
    write(*given, **more)
    folder.joinpath('writing').write_text('yes')
    time.sleep(4)
numpy.lib.format.write_array = slowly
"""
SHAPES = r"input 'hidden_states' differs between ranks: shape \(4, 16\) on rank 0; shape \(3, 16\) on rank 1"


@pytest.mark.parametrize("launcher", FIRST)
def test_input_files_of_other_shapes(ranks, engine, launcher):
    for rank in range(2):
        (ranks.folder / f"host{rank}").mkdir()
        ranks.input(4 - rank).rename(ranks.folder / f"host{rank}" / "input.npz")
    moves = [(rank, "start", f"os.chdir({str(ranks.folder / f'host{rank}')!r})") for rank in range(2)]
    ranks.start(launcher, engine, *moves, input="input.npz")
    ended = ranks.end()
    ended.names(SHAPES)
    assert ended.err.count("trtllm-ext: error: ") == 1


@long
def test_inputs_of_a_program_of_other_shapes(ranks, engine):
    ranks.start_program(engine, "session.run({'hidden_states': x[:3]})")
    ranks.end().names(SHAPES)


@long
def test_an_input_that_a_rank_refuses(ranks, engine):
    ranks.start_program(engine, "session.run({'hidden_states': x[:, :8].copy()})")
    ranks.end().names(
        "nothing was run, since not all ranks could take their inputs. rank 1: input 'hidden_states'"
    )


@pytest.mark.parametrize(
    "launcher", LONG
)  # by default, tests/parallel/test_launch_of_mpi.py has one that raises
def test_a_rank_that_raises(ranks, engine, launcher):
    ranks.start(launcher, engine, (1, "run", "raise ValueError('half of it is missing')"))
    ranks.end().names("rank 1 failed: ValueError: half of it is missing")


@pytest.mark.parametrize(
    "statement, sentence",
    [
        pytest.param(
            "raise ValueError('half of it is missing')",
            "rank 1 failed: ValueError: half of it is missing",
            marks=long,
        ),
        ("sys.exit(3)", r"rank 1 failed: it ended with sys\.exit\(3\)"),
        pytest.param("sys.exit(0)", "rank 1 has left, but rank 0 still waits", marks=long),
    ],
)
def test_a_program_that_ends_on_one_rank(ranks, engine, statement, sentence):
    ranks.start_program(engine, statement)
    ranks.end().names(sentence)


@pytest.mark.parametrize(
    "launcher, rank",
    [
        ("nproc", 0),
        pytest.param("mpiexec", 1, marks=long),
        pytest.param("mpiexec", 0, marks=long),
        pytest.param("nproc", 1, marks=long),
    ],
)
def test_a_rank_that_is_killed_in_the_middle_of_a_run(ranks, engine, launcher, rank):
    ranks.start(launcher, engine, (0, "run", LOOP), (1, "run", LOOP))
    for each in range(2):
        ranks.wait_for(f"{each}.runs")
    ranks.kill(rank, signal.SIGKILL)
    ranks.end().names(rf"rank {rank} (was ended by signal 9 \(SIGKILL\)|has died)")


@pytest.mark.parametrize("launcher", FIRST)
def test_a_rank_that_is_killed_while_the_output_is_written(ranks, engine, launcher):
    ranks.start(launcher, engine, (0, "run", SLOW_DISK), (1, "run", "pass"))
    ranks.wait_for("writing")
    ranks.kill(1, signal.SIGKILL)
    ranks.end().names(r"rank 1 (was ended by signal 9 \(SIGKILL\)|has died)")


@long
def test_an_output_that_takes_longer_to_write_than_ranks_wait(ranks, engine):
    ranks.start("mpiexec", engine, (0, "run", SLOW_DISK), timeout_s=2)
    ended = ranks.end(is_left=["output.npz"])
    assert (ended.code, ended.err) == (0, "")


@pytest.mark.parametrize(
    "number, code, cause",
    [
        (signal.SIGINT, 130, "was interrupted"),
        pytest.param(signal.SIGTERM, 143, "was ended by SIGTERM", marks=long),
    ],
)
def test_an_interrupt_of_the_launcher(ranks, engine, number, code, cause):
    ranks.start("nproc", engine, (0, "run", LOOP), (1, "run", LOOP))
    ranks.wait_for("1.runs")
    ranks.signal_launcher(number)
    ended = ranks.end()
    assert ended.code == code
    assert f"rank 0 of 2 ends: the launcher {cause}" in ended.err


@long
@pytest.mark.parametrize(
    "launcher, number", [("mpiexec", signal.SIGTERM), ("mpiexec", signal.SIGKILL), ("nproc", signal.SIGKILL)]
)
def test_a_launcher_that_is_killed(ranks, engine, launcher, number):
    ranks.start(launcher, engine, (0, "run", LOOP), (1, "run", LOOP))
    ranks.wait_for("1.runs")
    ranks.signal_launcher(number)
    assert ranks.end().code != 0
