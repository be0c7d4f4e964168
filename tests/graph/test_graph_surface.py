"""The names that `graph` offers, and the signatures that TensorRT-LLM's users rely on."""

import inspect
import subprocess
import sys

import pytest

from trtllm_ext import Builder, graph
from trtllm_ext.errors import GraphError
from trtllm_ext.graph import functional

BUDGET_S = 8

SIGNATURES = {
    "activation": "(input, act_type)",
    "arange": "(start, end, dtype)",
    "cast": "(input, dtype)",
    "chunk": "(tensor, chunks, dim=0)",
    "clip": "(input, alpha, beta)",
    "concat": "(inputs, dim=0)",
    "constant": "(ndarray, as_dtype=None, as_shape=None)",
    "elementwise_binary": "(left, right, op)",
    "embedding": "(input, weight, tp_size=1, tp_group=None, sharding_dim=0, tp_rank=None, "
    "per_token_scale=None, padding=None)",
    "expand": "(input, expand_shape)",
    "expand_dims": "(input, dim, shape_cast_dtype=None)",
    "expand_dims_like": "(left, right)",
    "expand_mask": "(mask, tgt_len=None)",
    "flatten": "(input, start_dim=0, end_dim=-1)",
    "gather": "(input, dim, indices)",
    "gegelu": "(x, limit=None)",
    "gelu": "(x)",
    "identity": "(input)",
    "index_select": "(input, dim, index)",
    "int_clip": "(input, lower, upper)",
    "layer_norm": "(input, normalized_shape, weight=None, bias=None, eps=1e-05, use_diff_of_squares=True)",
    "matmul": "(input, mat2, transa=False, transb=False, use_fp32_acc=True)",
    "max": "(input, dim, keepdim=False)",
    "mean": "(input, dim, keepdim=False)",
    "modulo": "(x, y)",
    "permute": "(input, dims)",
    "reduce": "(input, op, dim, keepdim=False)",
    "rms_norm": "(input, normalized_shape, num_groups=1, weight=None, eps=1e-06)",
    "select": "(input, dim, index)",
    "shape": "(input, dim=None, cast_to_dtype=None, clip_before_cast=None)",
    "slice": "(input, starts, sizes, strides=None, mode=None, fill_value=None)",
    "softmax": "(input, dim=None)",
    "softplus": "(input, beta, threshold)",
    "split": "(tensor, split_size_or_sections, dim=0)",
    "squeeze": "(input, dim=None, zero_is_placeholder=False)",
    "stack": "(inputs, dim=0)",
    "swiglu": "(input)",
    "transpose": "(input, dim0, dim1)",
    "unary": "(input, op)",
    "unbind": "(input, dim=0)",
    "unsqueeze": "(input, axis)",
    "view": "(input, shape, zero_is_placeholder=True)",
    "where": "(condition, left, right)",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature(name):
    parameters = inspect.signature(getattr(functional, name)).parameters.values()
    bare = [each.replace(annotation=inspect.Parameter.empty) for each in parameters]
    assert str(inspect.Signature(bare)) == SIGNATURES[name]


def test_every_name_has_a_docstring():
    for name in functional.__all__:
        assert (getattr(functional, name).__doc__ or "").strip(), name


def test_names_of_the_room():
    for name in graph.__all__:
        assert getattr(graph, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = graph.nothing


def test_importing_the_room_is_light():
    code = (
        "import sys, trtllm_ext.graph; from trtllm_ext.graph import functional, Module;"
        "heavy = {'torch', 'tensorrt', 'mpi4py', 'onnx', 'onnxruntime'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={"TRTLLM_EXT_BACKEND": "embedded", "PATH": ""}
    )


def test_names_are_tensorrt_llms_where_it_is_in_use():
    code = """
import sys, types
from trtllm_ext import backend
backend.choice = lambda: backend.Choice("tensorrt", "tensorrt_llm", ())
for name in ("tensorrt_llm", "tensorrt_llm.functional", "tensorrt_llm.module"):
    sys.modules[name] = types.ModuleType(name)
top, below = sys.modules["tensorrt_llm"], sys.modules["tensorrt_llm.module"]
below.ModuleList = object()
from trtllm_ext import graph
for name in graph.__all__:
    if name not in ("ModuleList", "functional", "constant"):
        setattr(top, name, object())
        assert getattr(graph, name) is getattr(top, name), name
sys.modules["tensorrt_llm.functional"].relu = object()
from trtllm_ext.graph import ModuleList, constant, functional
assert ModuleList is below.ModuleList and constant is functional.constant
assert functional.relu is sys.modules["tensorrt_llm.functional"].relu
assert "trtllm_ext.graph.functional" not in sys.modules
import trtllm_ext.graph.module
from trtllm_ext.graph.functional import relu
from trtllm_ext.graph import functional
assert functional.relu is sys.modules["tensorrt_llm.functional"].relu is not relu
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_types_of_torch_have_their_trt_types():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from trtllm_ext.graph import str_dtype_to_torch, str_dtype_to_trt, torch_dtype_to_trt

    for name in ("float32", "float16", "bfloat16", "int64", "int32", "int8", "bool", "fp8"):
        assert torch_dtype_to_trt(str_dtype_to_torch(name)) == str_dtype_to_trt(name)
    assert str_dtype_to_torch("fp8") is torch.float8_e4m3fn
    with pytest.raises(GraphError, match=r"torch\.float64 has no TensorRT type"):
        torch_dtype_to_trt(torch.float64)
    with pytest.raises(GraphError, match="'float64' is not known"):
        str_dtype_to_torch("float64")


def test_a_network_uses_no_plugins():
    network = Builder().create_network()
    config = network.plugin_config
    assert config.gemm_plugin is None and not config.remove_input_padding
    config.gemm_plugin = None
    config.remove_input_padding = False
    with pytest.raises(GraphError, match=r"plugin_config\.identity_plugin = 'float32'"):
        config.identity_plugin = "float32"
    with pytest.raises(AttributeError, match="Did you mean gemm_plugin"):
        config.gem_plugin = None
    with pytest.raises(AttributeError):
        _ = config.gem_plugin
    with pytest.raises(AttributeError, match=r"set_gemm_plugin: .*nothing to turn on. Leave the call out"):
        config.set_gemm_plugin(dtype="float16")
