"""Whether an engine computes what its checkpoint means, and where it first does not.

`verify_engine` looks into an engine of one rank, `ranks.verify` compares several ranks with one, `headroom` tells how
near to float16's end a model's numbers come.
"""

from trtllm_ext.verify.engine import verify_engine
from trtllm_ext.verify.headroom import Headroom, HeadroomRow, headroom
from trtllm_ext.verify.report import Bisection, LayerRow, NetworkFault, Report, Row

__all__ = [
    "Bisection",
    "Headroom",
    "HeadroomRow",
    "LayerRow",
    "NetworkFault",
    "Report",
    "Row",
    "headroom",
    "verify_engine",
]
