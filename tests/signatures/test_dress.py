"""The dress itself: what a release has not is not seen, and calls that it does not take are refused."""

import numpy as np
import pytest
from dressed_tensorrt import dressed, recorded
from tensorrt_surface import Given, Surface, refusal, releases

import trtllm_ext.embedded as embedded
from trtllm_ext import backend

BUDGET_S = 2

OLD, TEN, NEW = releases()
WORDS = {
    "int": 3,
    "float": 0.5,
    "list": [1],
    "none": None,
    "text": "x",
}


def ours(source, **names):
    """What an expression of a module of the package gives."""
    return eval(source, {"__name__": "trtllm_ext.probe", "trt": backend.tensorrt(), **names})


def network():
    trt = backend.tensorrt()
    builder = trt.Builder(trt.Logger())
    return builder.create_network(1 << int(embedded.NetworkDefinitionCreationFlag.STRONGLY_TYPED))


@pytest.mark.parametrize(
    ("source", "on"),
    [
        ("hasattr(trt.BuilderFlag, 'FP16')", (True, True, False)),
        ("'FP16' in trt.BuilderFlag.__members__", (True, True, False)),
        ("hasattr(trt.DataType, 'BF16')", (False, True, True)),
        ("hasattr(trt, 'int64')", (False, True, True)),
        ("hasattr(trt.NetworkDefinitionCreationFlag, 'EXPLICIT_BATCH')", (True, True, False)),
        ("hasattr(trt.NetworkDefinitionCreationFlag, 'STRONGLY_TYPED')", (False, True, True)),
        ("hasattr(trt.ActivationType, 'GELU_ERF')", (False, True, True)),
        ("hasattr(trt.IFillLayer, 'to_type')", (False, True, True)),
        ("hasattr(trt, 'IProgressMonitor')", (False, True, True)),
        ("hasattr(trt.Builder, 'max_batch_size')", (True, False, False)),
        ("hasattr(network, 'add_cumulative')", (False, True, True)),
        ("hasattr(network, 'add_normalization_v2')", (False, False, True)),
        ("hasattr(network, 'add_dist_collective')", (False, False, True)),
        ("hasattr(network, 'get_flag')", (False, True, True)),
        ("hasattr(network.add_input('x', trt.float32, (2,)), 'set_dynamic_range')", (True, True, False)),
        ("trt.__version__.split('.')[0]", ("8", "10", "11")),
    ],
)
def test_a_release_shows_what_it_has(source, on):
    for release, expected in zip(releases(), on, strict=True):
        with dressed(release):
            assert ours(source, network=network()) == expected, release


def test_what_only_the_embedded_engine_has_is_not_seen():
    logger = embedded.Logger()
    runtime = embedded.Runtime(logger)
    with recorded():
        assert ours("hasattr(runtime, 'load_mode')", runtime=runtime)
    for release in releases():
        with dressed(release):
            assert not ours("hasattr(runtime, 'load_mode')", runtime=runtime)
            with pytest.raises(AttributeError, match=r"Runtime has no attribute '_logger'"):
                ours("runtime._logger", runtime=runtime)
    assert runtime.load_mode  # the dress is off


@pytest.mark.parametrize(
    ("release", "source", "error"),
    [
        (
            OLD,
            "network.add_fill(trt.Dims([2]), trt.FillOperation.LINSPACE, trt.float32)",
            "takes 2 arguments",
        ),
        (OLD, "trt.Weights(trt.float32, 0, 0)", "takes 1 arguments"),
        (TEN, "network.add_topk(None, trt.TopKOperation.MAX, k='3', axes=1)", "wants a int for k, not str"),
        (TEN, "network.add_input(name='x', dtype=trt.float32, dims=(2,))", "has no parameter dims"),
        (NEW, "network.add_quantize(None, None)", "lacks the argument output_type"),
    ],
)
def test_arguments_that_a_release_does_not_take(release, source, error):
    with dressed(release), pytest.raises(TypeError, match=error):
        ours(source, network=network())


def test_what_cannot_be_set():
    with dressed(NEW), pytest.raises(AttributeError, match="num_layers cannot be set"):
        ours("network.__setattr__('num_layers', 3)", network=network())


def test_what_the_embedded_engine_lacks_is_there_but_cannot_be_used():
    with dressed(OLD):
        method = ours("network.add_fully_connected", network=network())
        with pytest.raises(LookupError, match=r"8\.6\.1 has INetworkDefinition\.add_fully_connected"):
            method()


def test_classes_serve_as_classes():
    with dressed(TEN):
        trt = backend.tensorrt()
        one = network()
        assert isinstance(one, trt.INetworkDefinition)
        assert ours(
            "trt.INetworkDefinition.get_flag(n, trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)", n=one
        )

        class Log(trt.ILogger):
            def log(self, severity, msg):
                pass

        assert isinstance(trt.Builder(Log()), embedded.Builder)
        layer = one.add_constant((1,), trt.Weights(np.ones(1, np.float32)))
        bare = one.get_layer(0)
        bare.__class__ = trt.IConstantLayer
        assert type(bare) is type(layer) is embedded.IConstantLayer


def test_uses_are_kept():
    with dressed(TEN) as dress:
        one = network()
        ours("network.add_input('x', dtype=trt.DataType.HALF, shape=(2,))", network=one)
        ours("network.num_inputs", network=one)
    told = sorted(str(use) for use in dress.uses)
    assert told == [
        "call INetworkDefinition.add_input(str, dtype: DataType, shape: tuple) by trtllm_ext.probe",
        "enumerator DataType.HALF by trtllm_ext.probe",
        "get DataType by trtllm_ext.probe",
        "get INetworkDefinition.num_inputs by trtllm_ext.probe",
    ]


@pytest.mark.parametrize(
    ("name", "arguments", "error"),
    [
        ("set_optimization_profile_async", (WORDS["int"], WORDS["int"]), None),
        ("set_optimization_profile_async", (WORDS["float"], WORDS["int"]), "wants a int"),
        ("set_input_shape", (WORDS["text"], WORDS["list"]), None),
        ("set_input_shape", (WORDS["list"], WORDS["list"]), "wants a str"),
        ("set_input_shape", (WORDS["text"], WORDS["none"]), "wants a Dims"),
        ("set_input_shape", (WORDS["text"],), "lacks the argument"),
    ],
)
def test_arguments_by_type(name, arguments, error):
    for release in releases():
        reason = refusal(Surface(release).member("IExecutionContext", name), Given.of(arguments, {}))
        assert (reason is None) if error is None else (error in reason)
