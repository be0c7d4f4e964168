"""Sessions on engines with outputs whose shape only a run shows."""

import gc
import weakref

import numpy as np
import pytest
from fake_devices import Counted, HostDevice

import trtllm_ext as tx
import trtllm_ext.embedded as trt
from trtllm_ext.errors import EngineError, InputError
from trtllm_ext.runtime import cuda, memory, session

BUDGET_S = 4


@pytest.fixture(scope="module")
def engine():
    """x half [-1, 4] -> "picked" [-1], its elements other than zero, and "doubled" [-1, 4]."""
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    x = network.add_input("x", trt.float16, (-1, 4))
    places = network.add_shuffle(network.add_non_zero(x).get_output(0))
    places.second_transpose = (1, 0)
    picked = network.add_gather_v2(x, places.get_output(0), trt.GatherMode.ND).get_output(0)
    doubled = network.add_elementwise(x, x, trt.ElementWiseOperation.SUM).get_output(0)
    for name, tensor in (("picked", picked), ("doubled", doubled)):
        tensor.name = name
        network.mark_output(tensor)
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    profile.set_shape("x", (0, 4), (3, 4), (9, 4))
    config.add_optimization_profile(profile)
    return builder.build_serialized_network(network, config)


def tokens(rows, seed=0):
    return np.random.default_rng(seed).integers(-1, 2, (rows, 4)).astype(np.float16)


def check(made, x):
    got = made.run({"x": x})
    assert list(got) == ["picked", "doubled"]
    np.testing.assert_array_equal(np.asarray(got["doubled"]), np.asarray(x) * 2)
    np.testing.assert_array_equal(np.asarray(got["picked"]), np.asarray(x)[np.asarray(x) != 0])
    return got


def test_new_arrays_of_the_length_that_the_run_shows(engine):
    with tx.Session.from_serialized_engine(engine) as made:
        x = tokens(3)
        first = check(made, x)["picked"]
        kept = first.copy()
        for rows in (9, 1, 0, 3):
            assert check(made, tokens(rows, rows))["picked"].dtype == np.float16
        x[:] = 0
        assert check(made, x)["picked"].shape == (0,)
        np.testing.assert_array_equal(first, kept)


def test_a_given_array_cannot_be_of_the_right_length(engine):
    made = tx.Session.from_serialized_engine(engine)
    x, doubled = tokens(3), np.zeros((3, 4), np.float16)
    with pytest.raises(
        InputError, match="'picked' has a shape that depends on data, \\(-1,\\), so it cannot be given"
    ):
        made.run({"x": x}, {"picked": np.zeros(12, np.float16)})
    got = made.run({"x": x}, {"doubled": doubled})
    assert got["doubled"] is doubled and got["picked"].shape == (int((x != 0).sum()),)


def test_lengths_not_known_before_a_run_are_minus_one(engine):
    made = tx.Session.from_serialized_engine(engine)
    assert {info.name: info.shape for info in made.set_shapes({"x": (3, 4)})} == {
        "picked": (-1,),
        "doubled": (3, 4),
    }
    check(made, tokens(3))


def test_torch_tensors_give_torch_tensors(engine):
    torch = pytest.importorskip("torch")
    made = tx.Session.from_serialized_engine(engine)
    for rows in (4, 0):
        got = check(made, torch.from_numpy(tokens(rows)))
        assert all(isinstance(value, torch.Tensor) for value in got.values())
        assert got["picked"].dtype == torch.float16


def test_on_a_device_the_values_come_back(engine, monkeypatch):
    device = Counted(HostDevice())
    monkeypatch.setattr(cuda, "device_buffers", lambda: device)
    monkeypatch.setattr(session, "HostMemory", memory.DeviceMemory)
    with tx.Session.from_serialized_engine(engine) as made:
        for rows in (2, 9, 0, 9):
            check(made, tokens(rows, rows))
    assert device.downloads and not device.buffers


def test_memory_that_cannot_be_had_fails_the_run_and_not_the_next(engine, monkeypatch):
    made = tx.Session.from_serialized_engine(engine)
    x = tokens(3)
    check(made, x)
    new = memory.HostMemory.new

    def full(self, port, shape, like):
        if port.name == "picked":
            raise MemoryError("no room")
        return new(self, port, shape, like)

    monkeypatch.setattr(memory.HostMemory, "new", full)
    with pytest.raises(EngineError, match="the output allocator of 'picked' failed"):
        made.run({"x": x})
    monkeypatch.undo()
    check(made, x)


def test_a_session_that_is_dropped_is_gone(engine):
    made = tx.Session.from_serialized_engine(engine)
    check(made, tokens(3))
    context = weakref.ref(made.context)
    made.close()
    del made
    gc.collect()
    assert context() is None
