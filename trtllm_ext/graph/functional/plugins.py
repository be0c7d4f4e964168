"""The names of TensorRT-LLM's functional that stand for compiled plugins.

They take anything and raise GraphError with the plugin's name and what to write instead.
"""

from typing import Any, NoReturn

from trtllm_ext.errors import GraphError
from trtllm_ext.graph.layer import fail
from trtllm_ext.graph.network import default_net
from trtllm_ext.graph.plugin_record import PluginRecord, fields_of


def _add_plugin_info(layer: Any, plugin_creator: Any, plugin_name: str, pfc: Any) -> None:
    """Record the fields `pfc` (a `trt.PluginFieldCollection`) of a plugin layer; TensorRT-LLM's name.

    What the plugin computes is not recorded by this; `Network.record_plugin` takes that too.
    """
    record = PluginRecord(
        name=plugin_name,
        version=str(getattr(plugin_creator, "plugin_version", "1")),
        namespace=str(getattr(plugin_creator, "plugin_namespace", "")),
        fields=fields_of(pfc),
    )
    default_net().record_plugin(layer, record)


def needs_plugin(what: str, plugin: str, instead: str) -> GraphError:
    """The error for an operation that only the plugin `plugin` computes."""
    return fail(
        f"{what} needs {plugin}, a compiled plugin of TensorRT-LLM's, which is not available here. {instead}"
    )


_ATTENTION = "Compose it of matmul and softmax, as trtllm_ext.layers.SelfAttention does."
_STATE = "It keeps state between runs and has no form of plain layers."
_GEMM = (
    "Use matmul, and swiglu on its result; quantised operands go through quantization.functional.dequantize."
)


def bert_attention(*args: Any, **kwargs: Any) -> NoReturn:
    """Not available: attention of an encoder by the plugin BertAttention."""
    raise needs_plugin("bert_attention", "BertAttention", _ATTENTION)


def gpt_attention(*args: Any, **kwargs: Any) -> NoReturn:
    """Not available: attention of a decoder with its cache by the plugin GPTAttention."""
    raise needs_plugin("gpt_attention", "GPTAttention", _ATTENTION)


def gemm_swiglu(*args: Any, **kwargs: Any) -> NoReturn:
    """Not available: a product followed by SwiGLU by the plugin GemmSwiglu."""
    raise needs_plugin("gemm_swiglu", "GemmSwiglu", _GEMM)


def low_latency_gemm(*args: Any, **kwargs: Any) -> NoReturn:
    """Not available: an fp8 product by the plugin LowLatencyGemm."""
    raise needs_plugin("low_latency_gemm", "LowLatencyGemm", _GEMM)


def low_latency_gemm_swiglu(*args: Any, **kwargs: Any) -> NoReturn:
    """Not available: an fp8 product followed by SwiGLU by the plugin LowLatencyGemmSwiglu."""
    raise needs_plugin("low_latency_gemm_swiglu", "LowLatencyGemmSwiglu", _GEMM)


def gemm_allreduce(*args: Any, **kwargs: Any) -> NoReturn:
    """Not available: a product summed over ranks by the plugin GemmAllReduce."""
    raise needs_plugin("gemm_allreduce", "GemmAllReduce", "Use matmul and allreduce.")


def create_allreduce_plugin(*args: Any, **kwargs: Any) -> NoReturn:
    """Not available: a layer of the plugin AllReduce."""
    raise needs_plugin("create_allreduce_plugin", "AllReduce", "Use allreduce.")


def lora_plugin(*args: Any, **kwargs: Any) -> NoReturn:
    """Not available: low-rank adapters chosen at run time by the plugin Lora."""
    raise needs_plugin("lora_plugin", "Lora", "Add matmul(matmul(x, a), b), or merge the adapter.")


def dora_plugin(*args: Any, **kwargs: Any) -> NoReturn:
    """Not available: the scaling of DoRA adapters by the plugin Dora."""
    raise needs_plugin("dora_plugin", "Dora", "Merge the adapter into the weight.")


def mamba_conv1d(*args: Any, **kwargs: Any) -> NoReturn:
    """Not available: Mamba's convolution with its state by the plugin MambaConv1d."""
    raise needs_plugin("mamba_conv1d", "MambaConv1d", _STATE)


def selective_scan(*args: Any, **kwargs: Any) -> NoReturn:
    """Not available: Mamba's scan by the plugin SelectiveScan."""
    raise needs_plugin("selective_scan", "SelectiveScan", _STATE)


def rg_lru(*args: Any, **kwargs: Any) -> NoReturn:
    """Not available: the recurrent unit of Griffin by the plugin LRU."""
    raise needs_plugin("rg_lru", "LRU", _STATE)


def cuda_stream_sync(*args: Any, **kwargs: Any) -> NoReturn:
    """Not available: waiting for another CUDA stream by the plugin CudaStream."""
    raise needs_plugin(
        "cuda_stream_sync", "CudaStream", "The layers of a network need no such order; leave it out."
    )


def cp_split_plugin(*args: Any, **kwargs: Any) -> NoReturn:
    """Not available: this rank's part of a long input by the plugin CpSplit."""
    raise needs_plugin("cp_split_plugin", "CpSplit", "Slice the input instead.")
