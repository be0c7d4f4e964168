"""Loading an engine of several ranks: what is wrong on one rank is the same sentence on all, and nobody waits."""

import re
import shutil
import threading
from dataclasses import replace

import numpy as np
import pytest
from ranked_engines import Wrapped, expected, rank_engine, tokens, write_engine_dir, write_known_answer

import trtllm_ext as tx
from trtllm_ext import backend, parallel
from trtllm_ext.errors import EngineError, RankError
from trtllm_ext.parallel import LocalWorld, run_ranks
from trtllm_ext.runtime import EngineDir
from trtllm_ext.runtime.ranks.running import check_place
from trtllm_ext.runtime.trt_log import recording_logger

BUDGET_S = 6

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return write_engine_dir(tmp_path_factory.mktemp("two") / "engine", 2)


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    return write_engine_dir(tmp_path_factory.mktemp("four") / "engine", 4)


@pytest.fixture
def copy(two, tmp_path):
    return shutil.copytree(two, tmp_path / "copy")


def errors_of(size, directory_of, **settings):
    """The error that each rank meets when it loads `directory_of(rank)`."""

    def load(end):
        try:
            tx.Session.from_engine_dir(directory_of(end.rank), communicator=end, **settings).close()
        except Exception as problem:
            return problem
        return None

    return run_ranks(size, load, timeout=5.0)


def sentence(errors, kind=RankError):
    """The one sentence that all ranks end with."""
    assert all(type(each) is kind for each in errors), errors
    assert len({str(each) for each in errors}) == 1, errors
    return str(errors[0])


@pytest.mark.parametrize("load_mode", ["prepack", "mapped"])
@pytest.mark.parametrize("size", [2, 4])
def test_ranks_give_the_unsharded_answer(two, four, size, load_mode):
    directory = {2: two, 4: four}[size]
    x = tokens(5)

    def work(end):
        with tx.Session.from_engine_dir(directory, load_mode=load_mode, communicator=end) as session:
            return session.run({"x": x})["y"]

    results = run_ranks(size, work)
    np.testing.assert_allclose(results[0], expected(x), rtol=1e-5, atol=1e-5)
    for each in results[1:]:
        assert each.tobytes() == results[0].tobytes()


def test_the_communicator_outlives_the_session(two):
    def work(end):
        for _ in range(2):
            tx.Session.from_engine_dir(two, communicator=end).close()
        return end.exchange(end.rank)

    assert run_ranks(2, work) == [[0, 1], [0, 1]]


def test_without_other_ranks(two):
    with pytest.raises(EngineError, match=r"built for 2 ranks.*mpirun -n 2 .*--nproc 2.*Rehearsal"):
        tx.Session.from_engine_dir(two)
    with pytest.raises(EngineError, match=r"built for 2 ranks, this world has 1"):
        tx.Session.from_engine_dir(two, communicator=LocalWorld(1).communicators[0])


@pytest.mark.parametrize("started", [3, 4])
def test_a_world_of_another_size(two, started):
    text = sentence(errors_of(started, lambda rank: two), EngineError)
    assert f"built for 2 ranks, this world has {started}; start it with mpirun -n 2" in text


def test_an_engine_of_one_rank_in_a_world_of_two(tmp_path):
    one = write_engine_dir(tmp_path / "one", 1)
    text = sentence(errors_of(2, lambda rank: one), EngineError)
    assert "built for 1 rank, this world has 2; start it without a launcher" in text


def test_a_rank_whose_engine_is_missing(copy):
    (copy / "rank1.engine").unlink()
    assert re.match(r"rank 1: .*has no rank1\.engine", sentence(errors_of(2, lambda rank: copy)))


def test_a_rank_whose_directory_is_missing(two, tmp_path):
    text = sentence(errors_of(2, lambda rank: two if rank == 0 else tmp_path / "elsewhere"))
    assert re.match(r"rank 1: .*elsewhere does not exist", text)


def test_a_directory_that_nobody_has_is_no_matter_of_ranks(tmp_path):
    text = sentence(errors_of(2, lambda rank: tmp_path / "no"), EngineError)
    assert text.startswith(str(tmp_path / "no"))


def test_a_rank_of_another_build(two, tmp_path):
    other = write_engine_dir(tmp_path / "other", 2)
    ids = [EngineDir.read(each, 0).envelope.build_id[:16] for each in (two, other)]
    text = sentence(errors_of(2, lambda rank: (two, other)[rank]))
    assert f"rank 1: the engine is of another build (build id {ids[1]}) than rank 0's ({ids[0]})" in text
    assert "copy one engine directory to all hosts" in text


def test_ranks_of_different_worlds(two, four):
    text = sentence(errors_of(2, lambda rank: (two, four)[rank]))
    assert "rank 0 built for 2 ranks; rank 1 built for 4 ranks" in text


def test_a_damaged_engine(copy):
    data = bytearray((copy / "rank1.engine").read_bytes())
    data[len(data) // 2] ^= 1
    (copy / "rank1.engine").write_bytes(data)
    assert re.match(r"rank 1: .*rank1\.engine", sentence(errors_of(2, lambda rank: copy)))


def test_a_rank_that_asks_for_another(two):
    text = sentence(errors_of(2, lambda rank: two, rank=0))
    assert text.startswith("rank 1: rank=0 was asked for, but this process is rank 1 of 2")


def test_a_wrong_load_mode_is_each_rank_s_own_error(two):
    errors = errors_of(2, lambda rank: two, load_mode="packed")
    assert all("load_mode='packed' is not known" in str(each) for each in errors)


def test_rank_files_that_were_swapped(copy):
    for kind in ("engine", "envelope.json"):
        one, other = (copy / f"rank{rank}.{kind}" for rank in (0, 1))
        one.rename(copy / "aside")
        other.rename(one)
        (copy / "aside").rename(other)
    text = sentence(errors_of(2, lambda rank: copy))
    assert "rank 0: " in text
    assert "describes rank 1" in text


def test_engines_under_the_wrong_rank_are_found_by_the_known_answer(tmp_path):
    """Two ranks hold the same half, and all files agree with each other."""
    engine = rank_engine(0, 2)
    directory = write_engine_dir(tmp_path / "engine", 2, engines=[engine, engine])
    text = sentence(errors_of(2, lambda rank: directory))
    assert "ranks 0, 1: the known answer" in text
    assert re.search(r"'y' is off by \d", text)
    assert errors_of(2, lambda rank: directory, self_test=False) == [None, None]


def test_a_known_answer_that_is_missing_or_of_another_engine(copy):
    build_id = EngineDir.read(copy, 0).envelope.build_id
    write_known_answer(copy, build_id, seed=5)
    assert "the known answer" in sentence(errors_of(2, lambda rank: copy))
    (copy / "self_test.npz").unlink()
    errors = errors_of(2, lambda rank: copy)
    assert all("self_test.npz does not exist" in str(each) for each in errors)
    assert errors_of(2, lambda rank: copy, self_test=False) == [None, None]


@pytest.mark.parametrize("graph", ["trtllm_ext", "tensorrt_llm"])
def test_ranks_on_tensorrt_need_a_communicator_of_its_own(two, monkeypatch, graph):
    """Which TensorRT-LLM's plugins bring, and this version does not."""
    envelope = replace(EngineDir.read(two, 1).envelope, engine_kind="tensorrt")
    monkeypatch.setattr(backend, "choice", lambda: backend.Choice("tensorrt", graph, ()))
    end = LocalWorld(2).communicators[1]
    if graph == "tensorrt_llm":
        check_place(envelope, None, end)
        return
    with pytest.raises(EngineError, match=r"2 ranks needs an NCCL communicator.*TensorRT-LLM is installed"):
        check_place(envelope, None, end)


def test_ranks_whose_bits_differ(two):
    """A last bit that differs on one rank is within every tolerance, and an error all the same."""

    def load(end):
        try:
            session = tx.Session.from_engine_dir(two, communicator=Rounding(end), self_test=True)
        except RankError as problem:
            return str(problem)
        session.close()
        return None

    class Rounding(Wrapped):
        """Rank 1 gets sums that are off by a few last bits, in runs only: known values are carried right."""

        def all_reduce(self, values, group, op="sum"):
            self.end.all_reduce(values, group, op)
            if self.end.rank == 1 and values.size == 3 * 8:
                values *= np.float32(1 + 1e-6)

    texts = run_ranks(2, load)
    assert texts[0] == texts[1]
    assert "rank 1 and rank 0 got different answers to the same input" in texts[0]


@pytest.mark.parametrize("fault", ["doubled", "missing", "order", "position"])
def test_a_path_that_carries_values_wrong(four, fault):
    """Known values, through every collective of the engine, before any real ones."""

    class Faulty(Wrapped):
        def all_reduce(self, values, group, op="sum"):
            parts = np.zeros((len(group), values.size), values.dtype)
            self.end.all_gather(values, parts, group)
            ranks = {"doubled": [0, 1, 2, 2], "missing": [0, 1, 2], "order": [3, 1, 2, 0]}
            total = sum(parts[rank] for rank in ranks.get(fault, range(4)))
            values[...] = np.roll(total, fault == "position").reshape(values.shape)

    def load(end):
        try:
            tx.Session.from_engine_dir(four, communicator=Faulty(end)).close()
        except RankError as problem:
            return str(problem)
        return None

    texts = run_ranks(4, load)
    assert len(set(texts)) == 1
    assert "does not carry known values right" in texts[0]
    assert re.search(
        r"all_reduce of \d+ float32 values over ranks 0, 1, 2, 3 gave \d+ of \d+ wrong", texts[0]
    )


def opened(directory, how, rank, **settings):
    """A session on a rank's engine from memory: not loaded yet, or loaded."""
    engine = (directory / f"rank{rank}.engine").read_bytes()
    if how == "serialized":
        return tx.Session.from_serialized_engine(engine, **settings)
    runtime = backend.tensorrt().Runtime(recording_logger(backend.tensorrt()).given)
    return tx.Session.from_engine(runtime.deserialize_cuda_engine(engine), **settings)


@pytest.mark.parametrize("how", ["serialized", "loaded"])
def test_engines_in_memory_find_their_world(two, monkeypatch, how):
    own, x = threading.local(), tokens(5)
    monkeypatch.setattr(parallel, "world", lambda: own.end)

    def run(end):
        own.end = end
        with opened(two, how, end.rank) as session:
            return session.run({"x": x})["y"]

    for y in run_ranks(2, run):
        np.testing.assert_allclose(y, expected(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("how", ["serialized", "loaded"])
def test_engines_in_memory_without_other_ranks(two, how):
    with pytest.raises(
        EngineError, match=r"built for 2 ranks.*was started alone\. Start it with mpirun -n 2"
    ):
        opened(two, how, 1)
    with pytest.raises(EngineError, match="built for 2 ranks, this world has 1; start"):
        opened(two, how, 1, communicator=LocalWorld(1).communicators[0])


@pytest.mark.parametrize("how", ["serialized", "loaded"])
def test_an_engine_of_one_rank_in_memory_needs_no_world(tmp_path, monkeypatch, how):
    monkeypatch.setattr(parallel, "world", None)
    one = write_engine_dir(tmp_path / "one", 1)
    with opened(one, how, 0) as session:
        np.testing.assert_allclose(
            session.run({"x": tokens(2)})["y"], expected(tokens(2)), rtol=1e-5, atol=1e-5
        )


def test_one_rank_is_looked_at_without_the_others(two):
    with tx.Session.to_look_at((two / "rank1.engine").read_bytes()) as session:
        assert session.inputs[0].name == "x"
        assert session.layers()
