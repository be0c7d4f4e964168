"""A pytest plugin: a small `tensorrt_llm` of our own making stands where TensorRT-LLM's would be.

It has the interface that this package relies on, made of our graph, and is as strict as TensorRT-LLM is where ours
takes more. `case_one.py` is the same with the source.
"""

import json
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import ml_dtypes
import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "runtime")]

import trtllm_ext.embedded as embedded  # noqa: E402

sys.modules["tensorrt"] = embedded

from fake_devices import HostDevice  # noqa: E402
from small_driver import Driver  # noqa: E402

from trtllm_ext import backend  # noqa: E402

backend.cuda_driver = Driver

from trtllm_ext.graph import dtypes, module, network, parameter, tensor  # noqa: E402
from trtllm_ext.parallel import Mapping  # noqa: E402
from trtllm_ext.runtime import cuda  # noqa: E402

functional, MODEL_MAP = import_module("trtllm_ext.graph.functional"), {}
NP_BFLOAT16 = np.dtype("V2", metadata={"dtype": "bfloat16"})
NP_FLOAT8 = np.dtype("V1", metadata={"dtype": "float8"})


def known(array):
    """Its arrays of bfloat16 and fp8 have void types; of others' it knows nothing."""
    assert array.dtype not in (ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn), (
        f"Unsupported dtype: {array.dtype}"
    )
    return array


class Module(module.Module):
    """Notes tensors without a meaning."""

    named_network_notes = property()  # not there

    def register_network_output(self, name, value):
        super().register_network_output(name, value)

    def named_network_outputs(self):
        for prefix, each in self.named_modules():
            for name, note in each._network_outputs.items():
                yield f"{prefix}.{name}" if prefix else name, note.value


class ModuleList(Module):
    def __init__(self, modules):
        super().__init__()
        for index, each in enumerate(modules):
            self._modules[str(index)] = each

    def __iter__(self):
        return iter(self._modules.values())


class Parameter(parameter.Parameter):
    @property
    def value(self):
        return parameter.Parameter.value.fget(self)

    @value.setter
    def value(self, array):
        parameter.Parameter.value.fset(self, known(array))


class Network(network.Network):
    """Made by its Builder, in two steps."""

    def __init__(self):
        pass

    def _init(self, trt_network):
        super().__init__(trt_network, embedded.Logger())
        return self


def constant(ndarray):
    return functional.constant(known(ndarray))


def layer_norm(input, normalized_shape, weight=None, bias=None, eps=1e-5, use_diff_of_squares=True):
    assert weight is not None and bias is not None

    def whole(value):
        if isinstance(value, tensor.Tensor):
            return value
        name = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16"}[input.dtype.name]
        return functional.cast(functional.constant(np.full((input.shape[-1],), value, np.float32)), name)

    return functional.layer_norm(input, normalized_shape, whole(weight), whole(bias), eps)


def expand(input, expand_shape):
    assert isinstance(expand_shape, tensor.Tensor)
    return functional.expand(input, expand_shape)


def arange(start, end, dtype):
    assert isinstance(start, int) == isinstance(end, int)
    if not isinstance(start, int):
        assert start.rank() == end.rank() == 0
    return functional.arange(start, end, dtype)


def flatten(input, start_dim=0, end_dim=-1):
    raise AssertionError("its product of sizes counts those that vary as -1")


def topk(input, k, dim, largest=True, prefer_plugin=True):
    assert not prefer_plugin, "the plugin TopkLastDim is compiled"
    return functional.topk(input, k, dim, largest)


class PretrainedConfig:
    def __init__(
        self,
        *,
        architecture,
        dtype,
        hidden_size,
        num_hidden_layers,
        num_attention_heads,
        mapping=None,
        quantization=None,
        **others,
    ):
        unknown = set(others) - set(_PLAIN)
        assert not unknown, f"implicitly set: {unknown}"
        self.architecture, self.dtype, self.hidden_size = architecture, dtype, hidden_size
        self.num_hidden_layers, self.num_attention_heads = num_hidden_layers, num_attention_heads
        self.__dict__.update(others)
        self.mapping = Mapping.from_dict({**(mapping or {}), "rank": 0})
        self.quantization = type("QuantConfig", (), dict(quantization or {}))()

    @classmethod
    def from_dict(cls, config):
        kind = MODEL_MAP[config["architecture"]]  # no other way to say what an unknown one is
        return getattr(kind, "config_class", cls)(**config)

    @classmethod
    def from_json_file(cls, path):
        return cls.from_dict(json.loads(Path(path).read_text()))

    @classmethod
    def from_checkpoint(cls, folder):
        return cls.from_json_file(Path(folder, "config.json"))

    def set_rank(self, rank):
        assert rank == self.mapping.rank


_PLAIN = (
    *("vocab_size", "hidden_act", "logits_dtype", "norm_epsilon", "position_embedding_type", "head_size"),
    *("max_position_embeddings", "num_key_value_heads", "intermediate_size", "rotary_embedding_dim"),
    *("qk_layernorm", "use_parallel_embedding", "embedding_sharding_dim", "runtime_defaults"),
)


class PostInit(type):
    def __call__(cls, *arguments, **keywords):
        made = super().__call__(*arguments, **keywords)
        made.__post_init__()
        return made


class PretrainedModel(Module, metaclass=PostInit):
    def __init__(self, config):
        super().__init__()
        self.config = config

    def __post_init__(self):
        self.is_post_initialised = True


class Linear(Module):
    def __init__(self, in_features, out_features, bias, dtype):
        super().__init__()
        self.weight = Parameter(shape=(out_features, in_features), dtype=dtype)
        if bias:
            self.bias = Parameter(shape=(out_features,), dtype=dtype)

    def forward(self, x, all_reduce_params=None):
        product = functional.matmul(x, self.weight.value, transb=True)
        return product + self.bias.value if "bias" in self._parameters else product


class RowLinear(Linear):
    pass


class _AnyMLP(Module):
    """first: names and widths of the matrices before proj."""

    def __init__(self, first, hidden_size, ffn_hidden_size, hidden_act, bias, dtype):
        super().__init__()
        self.hidden_size, self.ffn_hidden_size, self.hidden_act = hidden_size, ffn_hidden_size, hidden_act
        self.bias, self.dtype, self.tp_group, self.tp_size = bias, dtype, None, 1
        self.quant_mode, self.inner_layernorm, self.lora, self.is_expert = None, None, None, False
        for name, width in first.items():
            setattr(self, name, Linear(hidden_size, width, bias, dtype))
        self.proj = RowLinear(ffn_hidden_size, hidden_size, bias, dtype)

    def act(self, x):
        return getattr(functional, self.hidden_act)(x)


class MLP(_AnyMLP):
    def __init__(self, hidden_size, ffn_hidden_size, hidden_act, bias=True, dtype="float32", **first):
        first = {"fc": ffn_hidden_size, **first}
        super().__init__(first, hidden_size, ffn_hidden_size, hidden_act, bias, dtype)

    def forward(self, hidden_states, lora_layer_params=None, gegelu_limit=None):
        return self.proj(self.act(self.fc(hidden_states)))


class GatedMLP(MLP):
    def __init__(self, hidden_size, ffn_hidden_size, hidden_act, **more):
        super().__init__(hidden_size, ffn_hidden_size, hidden_act, gate=ffn_hidden_size, **more)

    def forward(self, hidden_states, lora_layer_params=None, all_reduce_params=None):
        return self.proj(self.act(self.fc(hidden_states)) * self.gate(hidden_states))


class FusedGatedMLP(_AnyMLP):
    """The rows of its matrix are those of gate, then of fc."""

    def __init__(self, hidden_size, ffn_hidden_size, hidden_act, bias=True, dtype="float32"):
        first = {"fused_fc": 2 * ffn_hidden_size}
        super().__init__(first, hidden_size, ffn_hidden_size, hidden_act, bias, dtype)

    def forward(self, hidden_states, lora_layer_params=None, all_reduce_params=None):
        gate, fc = functional.chunk(self.fused_fc(hidden_states), 2, 1)
        return self.proj(self.act(fc) * gate)


def _module(name, **members):
    made = sys.modules[name] = ModuleType(name)
    made.__dict__.update(members)
    parent, _, last = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], last, made)
    return made


_module(
    "tensorrt_llm",
    __version__="0.0",
    Module=Module,
    Parameter=Parameter,
    Network=Network,
    Tensor=tensor.Tensor,
    net_guard=network.net_guard,
    default_net=network.default_net,
    default_trtnet=network.default_trtnet,
    precision=network.precision,
    str_dtype_to_trt=dtypes.str_dtype_to_trt,
    str_dtype_to_torch=dtypes.str_dtype_to_torch,
    torch_dtype_to_trt=dtypes.torch_dtype_to_trt,
)
_own = {each.__name__: each for each in (constant, layer_norm, expand, arange, flatten, topk)}
_module(
    "tensorrt_llm.functional", **{**{name: getattr(functional, name) for name in dir(functional)}, **_own}
)
_module("tensorrt_llm.module", ModuleList=ModuleList)
_module(
    "tensorrt_llm._utils",
    np_bfloat16=NP_BFLOAT16,
    np_float8=NP_FLOAT8,
    trt_dtype_to_str=lambda dtype: {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16"}[dtype.name],
)
_module("tensorrt_llm.layers")
_module("tensorrt_llm.layers.linear", Linear=Linear, RowLinear=RowLinear)
_module("tensorrt_llm.layers.mlp", MLP=MLP, GatedMLP=GatedMLP, FusedGatedMLP=FusedGatedMLP)
_module("tensorrt_llm.models", MODEL_MAP=MODEL_MAP)
_module(
    "tensorrt_llm.models.modeling_utils", PretrainedConfig=PretrainedConfig, PretrainedModel=PretrainedModel
)

cuda.device_buffers = HostDevice
backend._choose.cache_clear()


def pytest_sessionstart(session):
    choice = backend.choice()
    assert (choice.engine, choice.graph) == ("tensorrt", "tensorrt_llm"), choice.reasons
