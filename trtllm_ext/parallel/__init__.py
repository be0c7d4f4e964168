"""How ranks share a model."""

from trtllm_ext.parallel.communicator import Communicator
from trtllm_ext.parallel.local import LocalWorld
from trtllm_ext.parallel.local_ranks import run_ranks
from trtllm_ext.parallel.mapping import Mapping
from trtllm_ext.parallel.world import launched_rank, launched_size, world

__all__ = ["Communicator", "LocalWorld", "Mapping", "launched_rank", "launched_size", "run_ranks", "world"]
