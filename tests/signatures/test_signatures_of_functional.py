"""Functional on TensorRT 8.6, 10.14 and 11.4: each function's calls are in their bindings, and it computes the same."""

from collections import OrderedDict

import numpy as np
import pytest
from dressed_tensorrt import dressed, recorded
from sampling import covered
from tensorrt_surface import releases

import trtllm_ext as tx
from trtllm_ext.builder import Builder
from trtllm_ext.errors import GraphError
from trtllm_ext.graph import Tensor, net_guard
from trtllm_ext.graph import functional as fn
from trtllm_ext.graph.quantization import functional as quantized
from trtllm_ext.plugin.formulas import gelu_erf

BUDGET_S = 6

pytestmark = pytest.mark.usefixtures("one_thread")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 8)).astype(np.float32)
IDS = RNG.integers(0, 5, size=(6,)).astype(np.int32)
TABLE, KERNEL = (RNG.normal(size=shape).astype(np.float32) for shape in ((5, 8), (4, 2, 3, 3)))


def weights():
    return [fn.constant(np.linspace(low, low + 1, 8, dtype=np.float32)) for low in (0.5, -0.5)]


def in_and_out_of_int8(x, ids):
    scale = fn.constant(np.array(0.05, np.float32))
    return quantized.dequantize(quantized.quantize(x, scale, "int8"), scale, output_type="float32")


def in_and_out_of_fp8(x, ids):
    scale = fn.constant(np.array(0.05, np.float32))
    return quantized.dequantize(quantized.quantize(x, scale, "fp8"), scale, output_type="float32")


def by_condition(x, ids):
    conditional = fn.Conditional(fn.gt(fn.select(fn.select(x, 0, 0), 0, 0), 0.0))
    conditional.add_input(x)
    return conditional.add_output(x * 2.0, x * 3.0)


def rows_counted(x, ids):
    """0, 1, ... up to the number of rows, which the engine learns when it runs."""
    return fn.cast(fn.arange(0, fn.shape(x, 0), "int32"), "float32")


# x: float32 (rows, 8), ids: int32 (rows,). Beside each name what is different from release to release, if anything.
FUNCTIONS = {
    "activations": lambda x, ids: (
        fn.silu(x) + fn.quick_gelu(x) + fn.squared_relu(x) + fn.softplus(x, 2.0, 20.0)
    ),
    "gelu_erf": lambda x, ids: gelu_erf(x),  # an activation, or composed
    "gelu_tanh": lambda x, ids: fn.gelu(x),  # likewise
    "layer_norm": lambda x, ids: fn.layer_norm(x, 8, *weights(), eps=1e-3),  # add_normalization, or its v2
    "group_norm": lambda x, ids: fn.group_norm(x, 4, *weights(), eps=1e-3),
    "rms_norm": lambda x, ids: fn.rms_norm(x, 8, weight=weights()[0], eps=1e-3),
    "softmax": lambda x, ids: fn.softmax(x, -1) + fn.log_softmax(x, -1),
    "matmul": lambda x, ids: fn.matmul(x, fn.constant(TABLE), transb=True),
    "einsum": lambda x, ids: fn.einsum("ij,kj->ik", [x, fn.constant(TABLE)]),
    "embedding": lambda x, ids: fn.embedding(ids, fn.constant(TABLE)),
    "conv2d": lambda x, ids: fn.conv2d(fn.view(x, [-1, 2, 2, 2]), fn.constant(KERNEL), padding=(1, 1)),
    "reductions": lambda x, ids: fn.sum(x, -1) + fn.mean(x, -1) + fn.max(x, -1) + fn.prod(x, -1),
    "topk": lambda x, ids: fn.topk(x, 3, -1)[0],
    "cumsum": lambda x, ids: fn.cumsum(x, -1),  # a layer, or composed
    "arange": rows_counted,  # a fill layer that is told its type, or one of float32
    "shapes": lambda x, ids: fn.permute(fn.unsqueeze(fn.view(x, [-1, 2, 4]), 1), [0, 2, 1, 3]),
    "slices": lambda x, ids: fn.concat(
        [fn.slice(x, [0, 2], [3, 4]), fn.flip(fn.slice(x, [1, 0], [3, 4]), [0])]
    ),
    "expand": lambda x, ids: fn.expand(fn.unsqueeze(fn.max(x, -1), 1), fn.shape(x)),
    "pad": lambda x, ids: fn.pad(x, (1, 2)),
    "select": lambda x, ids: fn.where(fn.gt(x, 0.0), x, fn.abs(x) * 0.5),
    "scatter": lambda x, ids: fn.scatter(
        x, 1, fn.cast(fn.view(ids, [-1, 1]), "int32"), fn.slice(x, [0, 0], [6, 1])
    ),
    "nonzero": lambda x, ids: fn.cast(fn.nonzero(fn.gt(x, 0.5)), "float32"),
    "quantize": in_and_out_of_int8,  # layers that are told their type, or not
    "conditional": by_condition,
}


def computed(define, rows=((2, 6, 8),), inputs=(X, IDS)):
    """What `define(x, ids)` gives, through the package's own builder and session.

    rows: (min, opt, max) of each optimization profile.
    """
    builder = Builder()
    config = builder.create_builder_config(precision="float32")
    network = builder.create_network()
    with net_guard(network):
        ranges = ("rows", [list(each) for each in rows])
        x = Tensor("x", "float32", (-1, 8), dim_range=OrderedDict([ranges, ("hidden", [8] * len(rows))]))
        ids = Tensor("ids", "int32", (-1,), dim_range=OrderedDict([ranges]))
        fn.identity(fn.cast(ids, "float32")).mark_output("read")  # an engine lacks an input that nobody reads
        (define(x, ids) * 1.0).mark_output("y")
    engine = builder.build_engine(network, config)
    with tx.Session.from_serialized_engine(engine) as session:
        return np.array(session.run(dict(zip(("x", "ids"), inputs, strict=True)))["y"])


@covered(newer=releases()[1:], name=FUNCTIONS)
def test_functions(name, newer):
    with recorded():
        expected = computed(FUNCTIONS[name])
    for release in (releases()[0], newer):
        with dressed(release, "tensorrt"):
            np.testing.assert_allclose(
                computed(FUNCTIONS[name]), expected, rtol=2e-6, atol=2e-6, err_msg=release
            )


def test_fp8():
    with recorded():
        expected = computed(in_and_out_of_fp8)
    old, *new = releases()
    for release in new:
        with dressed(release, "tensorrt"):
            np.testing.assert_allclose(computed(in_and_out_of_fp8), expected, rtol=2e-6, err_msg=release)
    with (
        dressed(old, "tensorrt"),
        pytest.raises(GraphError, match=r"TensorRT 8\.6\.1 quantizes to int8 alone, not to float8"),
    ):
        computed(in_and_out_of_fp8)


@pytest.mark.parametrize("release", releases())
def test_profiles(release):
    inputs = np.concatenate([X] * 4), np.concatenate([IDS] * 4)
    with dressed(release, "tensorrt") as dress:
        found = computed(FUNCTIONS["softmax"], rows=((2, 6, 8), (9, 16, 32)), inputs=inputs)
    np.testing.assert_allclose(found[:6], computed(FUNCTIONS["softmax"]), rtol=2e-6, atol=2e-6)
    used = {f"{use.owner}.{use.name}" for use in dress.uses}
    assert {
        "IBuilderConfig.add_optimization_profile",
        "IExecutionContext.set_optimization_profile_async",
    } <= used


def test_networks_of_11_are_strongly_typed_whatever_the_flag():
    for release, typed in zip(releases(), (False, False, True), strict=True):
        with dressed(release, "tensorrt"):
            builder = Builder()
            builder.strongly_typed = False
            assert builder.create_network().strongly_typed == typed, release
