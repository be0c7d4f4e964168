"""The oracle's collectives: N threads evaluate N networks, beside numpy."""

import numpy as np
import pytest

from trtllm_ext.errors import RankError
from trtllm_ext.oracle import OracleError, evaluate
from trtllm_ext.parallel import run_ranks

BUDGET_S = 3

RANDOM = np.random.default_rng(3)


@pytest.fixture
def collective(trt, new_network):
    """collective(operation, reduction, group, arrays): by rank the value of y = the collective of x."""

    def network_of(operation, reduction, group, array):
        network = new_network()
        types = {np.float32: trt.float32, np.float16: trt.float16, np.int64: trt.int64}
        x = network.add_input("x", types[array.dtype.type], array.shape)
        kinds = getattr(trt.CollectiveOperation, operation), getattr(trt.ReduceOperation, reduction)
        y = network.add_dist_collective(x, *kinds, -1, group).get_output(0)
        y.name = "y"
        network.mark_output(y)
        return network

    def evaluated(operation, reduction, group, arrays):
        networks = [network_of(operation, reduction, group, array) for array in arrays]
        return run_ranks(
            len(arrays),
            lambda one: evaluate(networks[one.rank], trt, {"x": arrays[one.rank]}, communicator=one)["y"],
        )

    evaluated.network_of = network_of
    return evaluated


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64])
@pytest.mark.parametrize("group", [[0, 1], [2, 0, 1]])
def test_values(collective, dtype, group):
    count = len(group)
    arrays = [(RANDOM.normal(size=(6, 2)) * 100).astype(dtype) for _ in group]
    exact = [arrays[rank].astype(np.int64 if dtype is np.int64 else np.float64) for rank in group]
    for reduction, of in [("SUM", np.sum), ("PROD", np.prod), ("MAX", np.max), ("MIN", np.min)]:
        total = of(exact, axis=0)
        for got in collective("ALL_REDUCE", reduction, group, arrays):
            np.testing.assert_allclose(got, total, rtol=1e-14, atol=1e-11)
        parts = collective("REDUCE_SCATTER", reduction, group, arrays)
        for place, rank in enumerate(group):
            own = np.split(total, count)[place]
            np.testing.assert_allclose(parts[rank], own, rtol=1e-14, atol=1e-11)
    for got in collective("ALL_GATHER", "NONE", group, arrays):
        np.testing.assert_array_equal(got, np.concatenate(exact))
    if dtype is not np.int64:
        for got in collective("ALL_REDUCE", "AVG", group, arrays):
            np.testing.assert_allclose(got, np.mean(exact, axis=0), rtol=1e-14, atol=1e-11)


def test_empty_tensors(collective):
    arrays = [np.zeros((0, 2), np.float32)] * 2
    for operation, reduction in [("ALL_REDUCE", "SUM"), ("ALL_GATHER", "NONE"), ("REDUCE_SCATTER", "SUM")]:
        assert [got.shape for got in collective(operation, reduction, [0, 1], arrays)] == [(0, 2), (0, 2)]


def test_sums_go_through_the_ranks_in_order(collective):
    """1 is lost beside 2^60, unless 2^60 and its opposite meet first."""
    arrays = [np.array([value], np.float32) for value in (2.0**60, 1.0, -(2.0**60))]
    for group, total in [([0, 1, 2], 0.0), ([0, 2, 1], 1.0)]:
        assert [got.item() for got in collective("ALL_REDUCE", "SUM", group, arrays)] == [total] * 3


def test_without_a_communicator(trt, collective):
    array = np.ones(2, np.float32)
    network = collective.network_of("ALL_REDUCE", "SUM", [0, 1], array)
    with pytest.raises(
        OracleError, match=r"over the ranks \[0, 1\]; evaluate each rank's network in a thread"
    ):
        evaluate(network, trt, {"x": array})


def test_a_rank_outside_of_the_group(collective):
    with pytest.raises(OracleError, match=r"over the ranks \[1, 2\], of which rank 0 is none"):
        collective("ALL_REDUCE", "SUM", [1, 2], [np.ones(2, np.float32)] * 3)


def test_shapes_that_differ(collective):
    with pytest.raises(RankError, match="rank"):
        collective("ALL_REDUCE", "SUM", [0, 1], [np.ones(2, np.float32), np.ones(3, np.float32)])


def test_a_network_that_does_not_tell(monkeypatch, trt, collective):
    """As TensorRT's own: its class has no such properties."""
    monkeypatch.delattr(trt.IDistCollectiveLayer, "dist_collective_op")
    with pytest.raises(
        OracleError, match="do not tell which collective a layer is; make it for the embedded engine"
    ):
        collective("ALL_REDUCE", "SUM", [0, 1], [np.ones(2, np.float32)] * 2)
