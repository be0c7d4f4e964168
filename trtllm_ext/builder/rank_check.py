"""Whether the library in use can run the ranks of a model, asked before any weights are read."""

from trtllm_ext import backend
from trtllm_ext.builder.tensorrt_settings import library
from trtllm_ext.checkpoint.sharding import ways_to_ranks
from trtllm_ext.errors import ConfigError


def check_can_run_ranks(world_size: int) -> None:
    """Raise ConfigError for an engine of several ranks where nothing makes their sums.

    With TensorRT-LLM's graph its own plugins do; with ours the library's collective layer.
    """
    if world_size == 1 or backend.choice().graph == "tensorrt_llm":
        return
    trt = backend.tensorrt()
    if hasattr(trt.INetworkDefinition, "add_dist_collective"):
        return
    raise ConfigError(
        f"the model is split over {world_size} ranks, and {library(trt)} has no collective layer "
        f"(INetworkDefinition.add_dist_collective) by which they add up their parts. Use TensorRT 11 or later, build "
        f"with {backend.ENVIRONMENT_VARIABLE}=embedded, or for one rank {ways_to_ranks(1)}."
    )
