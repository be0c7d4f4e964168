"""How ranks share a model."""

from trtllm_ext.parallel.communicator import Communicator
from trtllm_ext.parallel.local import LocalWorld, run_ranks
from trtllm_ext.parallel.mapping import Mapping

__all__ = ["Communicator", "LocalWorld", "Mapping", "run_ranks"]
