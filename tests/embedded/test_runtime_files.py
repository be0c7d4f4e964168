"""Engine files that change under a running process: what a prepacked engine computes does not depend on them."""

import mmap

import ml_dtypes
import numpy as np
import pytest
from tiny_plans import Log, config_with, context_of, run_context, strongly_typed

import trtllm_ext.embedded as trt

BUDGET_S = 20

# Enough that no weight stays inside the model.
WIDTH = 64

NONE, TRANSPOSE = trt.MatrixOperation.NONE, trt.MatrixOperation.TRANSPOSE


def random_array(shape, dtype, seed):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


class Definition:
    """A network of x (tokens, WIDTH) and index (tokens,), with shorthands."""

    def __init__(self, dtype):
        self.storage = {trt.float32: np.float32, trt.float16: np.float16, trt.bfloat16: ml_dtypes.bfloat16}[
            dtype
        ]
        self.builder = trt.Builder(Log())
        self.network = strongly_typed(self.builder)
        self.x = self.network.add_input("x", dtype, (-1, WIDTH))
        self.index = self.network.add_input("index", trt.int32, (-1,))
        self.kept = []

    def weight(self, *shape):
        array = random_array(shape, self.storage, len(self.kept))
        self.kept.append(array)
        return self.network.add_constant(shape, trt.Weights(array)).get_output(0)

    def product(self, x, weight, transpose=TRANSPOSE):
        return self.network.add_matrix_multiply(x, NONE, weight, transpose).get_output(0)

    def sum(self, a, b):
        return self.network.add_elementwise(a, b, trt.ElementWiseOperation.SUM).get_output(0)

    def rows(self, table):
        return self.network.add_gather(table, self.index, 0).get_output(0)

    def built(self, y):
        y.name = "y"
        self.network.mark_output(y)
        config = config_with(
            self.builder, {"x": ((1, WIDTH), (4, WIDTH), (9, WIDTH)), "index": ((1,), (4,), (9,))}
        )
        return self.builder.build_serialized_network(self.network, config)


def linear(net):
    return net.sum(net.product(net.x, net.weight(2 * WIDTH, WIDTH)), net.weight(1, 2 * WIDTH))


def not_transposed(net):
    return net.product(net.x, net.weight(WIDTH, WIDTH), NONE)


def left_operand(net):
    product = net.network.add_matrix_multiply(net.weight(WIDTH, WIDTH), NONE, net.x, TRANSPOSE)
    return product.get_output(0)


def table(net):
    return net.sum(net.rows(net.weight(512, WIDTH)), net.x)


def tied(net):
    weight = net.weight(512, WIDTH)
    return net.product(net.sum(net.rows(weight), net.x), weight)


def stacked(net):
    shuffle = net.network.add_shuffle(net.x)
    shuffle.reshape_dims = (1, -1, WIDTH)
    return net.product(shuffle.get_output(0), net.weight(3, WIDTH, WIDTH))


def normed(net):
    scale, bias = net.weight(1, WIDTH), net.weight(1, WIDTH)
    layer = net.network.add_normalization(net.x, scale, bias, 2)
    return net.product(layer.get_output(0), net.weight(WIDTH, WIDTH))


@pytest.mark.parametrize("dtype", [trt.float32, trt.float16, trt.bfloat16], ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("define", [linear, not_transposed, left_operand, table, tied, stacked, normed])
def test_a_prepacked_engine_does_not_see_its_file_being_overwritten(define, dtype, tmp_path):
    net = Definition(dtype)
    path = tmp_path / "rank0.engine"
    path.write_bytes(net.built(define(net)))
    with path.open("rb") as file:
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    context = context_of(memory, Log())
    feeds = {"x": random_array((4, WIDTH), net.storage, 99), "index": np.int32([3, 0, 60, 17])}
    before = run_context(context, feeds, {"y": net.storage})["y"]
    with path.open("r+b") as file:
        file.write(bytes(len(memory)))
    assert not any(memory[:])
    after = run_context(context, feeds, {"y": net.storage})["y"]
    assert np.any(before)
    assert before.tobytes() == after.tobytes()
