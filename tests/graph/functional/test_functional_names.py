"""Every public name of tensorrt_llm.functional, releases 0.16 to 1.2, and what has become of it here."""

import inspect

import numpy as np
import pytest

from trtllm_ext.errors import ConfigError, GraphError
from trtllm_ext.graph import functional as fn

BUDGET_S = 4

FUNCTIONS = [
    "abs", "activation", "add", "allgather", "allreduce", "arange", "argmax", "assertion", "avg_pool2d",
    "broadcast_helper", "cast", "categorical_sample", "chunk", "clip", "concat", "constant",
    "constant_to_tensor_", "constants_to_tensors_", "conv1d", "conv2d", "conv3d", "conv_transpose2d", "cos",
    "cumsum", "div", "einsum", "elementwise_binary", "embedding", "eq", "exp", "expand", "expand_dims",
    "expand_dims_like", "expand_mask", "flatten", "flip", "floordiv", "gather", "gather_last_token_logits",
    "gather_nd", "gegelu", "geglu", "gelu", "generate_alibi_biases", "generate_alibi_slopes",
    "generate_logn_scaling", "group_norm", "gt", "identity", "index_select", "int_clip", "interpolate",
    "is_gated_activation", "layer_norm", "log", "log_softmax", "lt", "masked_scatter", "masked_select",
    "matmul", "max", "maximum", "mean", "meshgrid2d", "min", "minimum", "modulo", "mul", "non_gated_version",
    "nonzero", "not_op", "op_and", "op_or", "op_xor", "outer", "pad", "permute", "pow", "prod", "quick_gelu",
    "rand", "rearrange", "recv", "reduce", "reduce_scatter", "relu", "repeat", "repeat_interleave",
    "rms_norm", "round", "scatter", "scatter_nd", "select", "send", "shape", "sigmoid", "silu", "sin",
    "slice", "softmax", "softplus", "split", "sqrt", "squared_relu", "squeeze", "stack", "sub", "sum",
    "swiglu", "tanh", "topk", "transpose", "unary", "unbind", "unsqueeze", "view", "where",
]  # fmt: skip

CLASSES = [
    "AllReduceConfig", "AllReduceFusionOp", "AllReduceParams", "AllReduceStrategy", "AttentionMaskType",
    "Conditional", "DimRange", "LayerNormPositionType", "LayerNormType", "MLPType", "PositionEmbeddingType",
    "RopeEmbeddingUtils", "RotaryScalingType", "SideStreamIDType", "SliceInputType", "Tensor",
]  # fmt: skip

TABLES = ["ACT2FN", "GATED_ACT_2_ACT"]

# Its names for what a compiled plugin computes, and that plugin.
PLUGINS = {
    "bert_attention": "BertAttention",
    "cp_split_plugin": "CpSplit",
    "create_allreduce_plugin": "AllReduce",
    "cuda_stream_sync": "CudaStream",
    "dora_plugin": "Dora",
    "gemm_allreduce": "GemmAllReduce",
    "gemm_swiglu": "GemmSwiglu",
    "gpt_attention": "GPTAttention",
    "lora_plugin": "Lora",
    "low_latency_gemm": "LowLatencyGemm",
    "low_latency_gemm_swiglu": "LowLatencyGemmSwiglu",
    "mamba_conv1d": "MambaConv1d",
    "rg_lru": "LRU",
    "selective_scan": "SelectiveScan",
}

# MoEAllReduceParams belongs to its PyTorch path; allreduce_ub_counter counts inside allreduce.
LEFT_OUT = ["MoEAllReduceParams", "allreduce_ub_counter"]

# Arguments with their defaults, as TensorRT-LLM has them; ours may have more behind.
SIGNATURES = {
    "allgather": "(tensor, group, gather_dim=0)",
    "allreduce": "(tensor, group, all_reduce_params=None)",
    "argmax": "(input, dim, keepdim=False)",
    "assertion": "(condition, message='')",
    "avg_pool2d": "(input, kernel_size, stride=None, padding=(0, 0), ceil_mode=False, count_include_pad=True)",
    "categorical_sample": "(probs, rand_data=None)",
    "conv1d": "(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1)",
    "conv2d": "(input, weight, bias=None, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1, "
    "pre_padding=None, post_padding=None)",
    "conv3d": "(input, weight, bias=None, stride=(1, 1, 1), padding=(0, 0, 0), dilation=(1, 1, 1), groups=1)",
    "conv_transpose2d": "(input, weight, bias=None, stride=(1, 1), padding=(0, 0), output_padding=(0, 0), "
    "dilation=(1, 1), groups=1)",
    "cumsum": "(input, dim, prefer_plugin=True)",
    "einsum": "(einsum_eq, inputs)",
    "flip": "(input, dims)",
    "gather_last_token_logits": "(hidden_states, last_token_ids, remove_input_padding)",
    "gather_nd": "(input, indices, batch_dims=1)",
    "generate_alibi_biases": "(slopes, key_length)",
    "generate_alibi_slopes": "(num_heads, tp_size=1, tp_rank=0, alibi_scale=1.0, alibi_bias_max=8)",
    "generate_logn_scaling": "(seq_length=8192, max_position_embeddings=32768)",
    "group_norm": "(input, num_groups, weight=None, bias=None, eps=1e-05)",
    "interpolate": "(input, size=None, scale_factor=None, mode='nearest', align_corners=False, "
    "recompute_scale_factor=False, antialias=False)",
    "log_softmax": "(input, dim)",
    "masked_scatter": "(input, mask, source)",
    "masked_select": "(input, mask)",
    "meshgrid2d": "(x, y)",
    "nonzero": "(input)",
    "outer": "(input, vec2)",
    "pad": "(input, pad, mode='constant', value=None)",
    "rand": "(shape, low=0, high=1, dtype='float32')",
    "rearrange": "(inputs, expression, **kwargs)",
    "recv": "(tensor, src)",
    "reduce_scatter": "(tensor, group)",
    "repeat": "(input, sizes)",
    "repeat_interleave": "(tensor, repeats, dim)",
    "scatter": "(input, dim, indices, updates)",
    "scatter_nd": "(input, mask, source)",
    "send": "(tensor, tgt)",
    "topk": "(input, k, dim, largest=True, prefer_plugin=True)",
}


def test_every_name_is_there_and_no_other():
    extra = {"_add_plugin_info", "_create_tensor", "dim_resolve_negative", "dim_to_trt_axes"}
    assert set(fn.__all__) == {*FUNCTIONS, *CLASSES, *TABLES, *PLUGINS, *extra}
    for name in FUNCTIONS:
        assert inspect.isfunction(getattr(fn, name)), name
    for name in CLASSES:
        assert inspect.isclass(getattr(fn, name)), name
    for name in LEFT_OUT:
        assert not hasattr(fn, name), name


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature(name):
    parameters = inspect.signature(getattr(fn, name)).parameters.values()
    bare = [each.replace(annotation=inspect.Parameter.empty) for each in parameters]
    assert str(inspect.Signature(bare)) == SIGNATURES[name]


@pytest.mark.parametrize("name", PLUGINS)
def test_what_needs_a_plugin_names_it(guarded, name):
    with pytest.raises(
        GraphError, match=rf"{name} needs {PLUGINS[name]}, a compiled plugin of TensorRT-LLM's"
    ):
        getattr(fn, name)(1, anything=2)


def test_what_needs_a_plugin_names_it_before_a_network_is_there():
    with pytest.raises(GraphError, match=r"^gpt_attention needs GPTAttention, a compiled plugin"):
        fn.gpt_attention()


def test_activations_by_name(run):
    x = np.linspace(-2, 2, 6, dtype=np.float32)
    assert {
        "relu",
        "gelu",
        "gelu_new",
        "gelu_fast",
        "gelu_pytorch_tanh",
        "openai-gelu",
        "geglu",
        "gegelu",
    } < set(fn.ACT2FN)
    assert {"identity", "silu", "softplus", "squared-relu", "relu2", "swiglu", "fast-swiglu"} < set(fn.ACT2FN)
    names = [name for name in fn.ACT2FN if name != "softplus"]
    got = run(lambda x: [fn.ACT2FN[name](x) for name in names], x)
    by_name = dict(zip(names, got, strict=True))
    for name in names:
        assert by_name[name].shape == ((3,) if name in ("geglu", "gegelu", "swiglu", "fast-swiglu") else (6,))
    np.testing.assert_array_equal(by_name["openai-gelu"], by_name["gelu"])
    np.testing.assert_allclose(by_name["relu2"], np.maximum(x, 0) ** 2)
    assert fn.is_gated_activation("geglu") and not fn.is_gated_activation("gelu")
    assert [fn.non_gated_version(name) for name in ("swiglu", "fast-swiglu", "geglu", "tanh")] == [
        "silu",
        "silu",
        "gelu",
        "tanh",
    ]
    with pytest.raises(GraphError, match=r"'sillu' is not known\. Did you mean silu"):
        fn.non_gated_version("sillu")


def test_enumerations():
    kinds = fn.PositionEmbeddingType
    assert [kind.name for kind in kinds if kind.is_rope()] == [
        "rope_gptj",
        "rope_gpt_neox",
        "long_rope",
        "mrope",
    ]
    assert [kind.name for kind in kinds if kind.is_alibi()] == ["alibi", "alibi_with_scale"]
    assert kinds.from_string("chatglm") is kinds.chatglm and str(kinds.alibi) == "alibi"
    assert kinds.mrope.is_mrope() and kinds.deferred.is_deferred() and "relative" in kinds.choices()
    assert fn.RotaryScalingType.from_string("yarn") == 5
    with pytest.raises(ConfigError, match=r"'llama4' is not a rotary scaling type\. Did you mean llama3"):
        fn.RotaryScalingType.from_string("llama4")
    with pytest.raises(ValueError, match="is not a position embedding type"):
        kinds.from_string("rope")


def test_collectives_of_one_rank(run, guarded):
    x, residual = np.array([[1.0, -2.0, 3.0]], np.float32), np.array([[0.5, 0.5, -1.0]], np.float32)

    def define(x, residual):
        assert fn.allgather(x, [3], -1) is x and fn.reduce_scatter(x, [0]) is x and fn.allreduce(x, [0]) is x
        params = fn.AllReduceParams(
            strategy=fn.AllReduceStrategy.NCCL,
            fusion_op=fn.AllReduceFusionOp.RESIDUAL_RMS_NORM,
            residual=residual,
            bias=fn.constant(np.full(3, 2, np.float32)),
            eps=1e-5,
        )
        assert (params.has_bias(), params.has_affine(), params.has_scale()) == (1, 0, 0)
        return fn.allreduce(x, [0], params)

    normed, total = run(define, x, residual)
    np.testing.assert_allclose(total, x + residual + 2)
    np.testing.assert_allclose(
        normed, total / np.sqrt(np.mean(total**2, -1, keepdims=True) + 1e-5), rtol=1e-6
    )
    tensor = guarded[1]("x", "float32", [2, 3])
    for call, text in [
        (lambda: fn.allgather(tensor, [0], 2), "dimension 2 is out of range"),
        (lambda: fn.allreduce(tensor, []), "over an empty group"),
        (lambda: fn.send(tensor, 1), "send needs Send"),
        (lambda: fn.recv(tensor, 1), "recv needs Recv"),
        (lambda: fn.AllReduceParams(fusion_op=fn.AllReduceFusionOp.RESIDUAL_RMS_NORM), "give residual="),
        (
            lambda: fn.allreduce(
                tensor, [0], fn.AllReduceParams(fusion_op=fn.AllReduceFusionOp(4), residual=tensor)
            ),
            "RESIDUAL_RMS_NORM_QUANT_FP8 is not available",
        ),
    ]:
        with pytest.raises(GraphError, match=text):
            call()


def test_dim_ranges():
    same = fn.DimRange([4, (1, 2, 3)], ["a", "b"]), fn.DimRange([(4, 4, 4), [1, 2, 3]], ["a", "b"])
    assert same[0] == same[1] and hash(same[0]) == hash(same[1])
    assert same[0] != fn.DimRange([4, (1, 2, 4)], ["a", "b"]) and same[0] != fn.DimRange(
        [4, (1, 2, 3)], ["a", "c"]
    )
    assert (same[0].min, same[0].opt, same[0].max, same[0].dimension_names) == (
        [4, 1],
        [4, 2],
        [4, 3],
        ["a", "b"],
    )
    assert repr(same[0]) == "DimRange([4, (1, 2, 3)], ['a', 'b'])"
    with pytest.raises(GraphError, match="a name for each dimension"):
        fn.DimRange([4], [])
    with pytest.raises(GraphError, match=r"dimension 'a': the range \(3, 2, 1\)"):
        fn.DimRange([(3, 2, 1)], ["a"])


def test_tensor_forms(run):
    a, b = np.array([True, False]), np.array([True, True])
    np.testing.assert_array_equal(run(lambda a, b: a ^ b, a, b), [False, True])

    def define(x):
        assert x.is_network_input and x.is_trt_wrapper() and not (x + 1.0).is_network_input
        return x + 1.0

    run(define, np.zeros(1, np.float32))
