"""Engines that do not fit the ranks, or each other: all ranks refuse to run, and one sentence says which and why."""

import shutil

import pytest

BUDGET_S = 12

long = pytest.mark.long
BOTH = ["mpiexec", "nproc"]
FOREIGN = ["mpiexec", pytest.param("nproc", marks=long)]  # the other one in the long runs
OWN = [pytest.param("mpiexec", marks=long), "nproc"]
LONG = [pytest.param(each, marks=long) for each in BOTH]


@pytest.fixture
def own_engines(engine, ranks):
    """Each rank starts in a folder of its own, as on a host of its own, with its own files in engine/."""
    folders = [ranks.folder / f"host{rank}" for rank in range(2)]
    for rank, folder in enumerate(folders):
        shutil.copytree(engine, folder / "engine", ignore=shutil.ignore_patterns(f"rank{1 - rank}.*"))
    return folders


def start_apart(ranks, launcher, folders):
    moves = [(rank, "start", f"os.chdir({str(folder)!r})") for rank, folder in enumerate(folders)]
    ranks.start(launcher, "engine", *moves)


@pytest.mark.parametrize("launcher", FOREIGN)
def test_another_number_of_ranks(ranks, engine, launcher):
    ranks.start(launcher, engine, count=3)
    ended = ranks.end()
    ended.names("the engine was built for 2 ranks, this world has 3; start it with mpirun -n 2")
    assert ended.err.count("trtllm-ext: error: ") == 1
    assert ended.out == ""


@pytest.mark.parametrize("launcher", LONG)
def test_an_engine_of_one_rank(ranks, engine_of_one, launcher):
    ranks.start(launcher, engine_of_one)
    ranks.end().names("built for 1 rank, this world has 2; start it without a launcher, and without --nproc")


@pytest.mark.parametrize("launcher", LONG)  # by default, tests/cli/test_run_ranks.py has one like it
@pytest.mark.parametrize("name", ["rank1.engine", "rank1.envelope.json"])
def test_a_missing_file(ranks, own_engines, launcher, name):
    (own_engines[1] / "engine" / name).unlink()
    start_apart(ranks, launcher, own_engines)
    ended = ranks.end()
    ended.names(f"error: rank 1: engine has no {name.replace('.', '[.]')}")
    assert ended.err.count("trtllm-ext: error: ") == 1


@pytest.mark.parametrize("launcher", LONG)
def test_no_directory_at_all(ranks, own_engines, launcher):
    shutil.rmtree(own_engines[1] / "engine")
    start_apart(ranks, launcher, own_engines)
    ranks.end().names("error: rank 1: engine does not exist; expected an engine directory")


@pytest.mark.parametrize("launcher", OWN)
def test_another_build(ranks, own_engines, built_again, launcher):
    own_engines[1] = built_again.parent
    start_apart(ranks, launcher, own_engines)
    ended = ranks.end()
    ended.names("error: rank 1: the engine is of another build [(]build id [0-9a-f]+[)] than rank 0's")
    assert ended.err.count("trtllm-ext: error: ") == 1


@pytest.mark.parametrize("launcher", LONG)
def test_another_ranks_engine(ranks, engine, launcher):
    swapped = shutil.copytree(engine, ranks.folder / "swapped")
    shutil.copy(engine / "rank0.engine", swapped / "rank1.engine")
    ranks.start(launcher, swapped)
    ranks.end().names(
        "error: rank 1: .*rank1[.]engine is not the file that rank1[.]envelope[.]json describes"
    )


@pytest.mark.parametrize("launcher", LONG)
def test_no_engine_anywhere(ranks, launcher):
    ranks.start(launcher, "nowhere")
    ended = ranks.end()
    ended.names("error: nowhere does not exist")
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize("launcher", LONG)
def test_each_rank_with_its_own_files(ranks, own_engines, launcher):
    start_apart(ranks, launcher, own_engines)
    ended = ranks.end(is_left=["output.npz"])
    assert (ended.code, ended.err) == (0, "")
