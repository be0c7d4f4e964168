"""The add_ methods of a network, by family."""

from trtllm_ext.embedded.adders.absent import AbsentAdders
from trtllm_ext.embedded.adders.arithmetic import ArithmeticAdders
from trtllm_ext.embedded.adders.collective import CollectiveAdders
from trtllm_ext.embedded.adders.control import ControlAdders
from trtllm_ext.embedded.adders.equations import EquationAdders
from trtllm_ext.embedded.adders.movement import MovementAdders
from trtllm_ext.embedded.adders.plugin import PluginAdders
from trtllm_ext.embedded.adders.quantization import QuantizationAdders
from trtllm_ext.embedded.adders.selection import SelectionAdders
from trtllm_ext.embedded.adders.spatial import SpatialAdders


# AbsentAdders stays last: it has what no other family has.
class LayerAdders(
    ArithmeticAdders,
    MovementAdders,
    SelectionAdders,
    ControlAdders,
    PluginAdders,
    QuantizationAdders,
    SpatialAdders,
    EquationAdders,
    CollectiveAdders,
    AbsentAdders,
):
    """The part of INetworkDefinition that adds layers.

    Every method returns the layer, or None if there cannot be such a layer; the reason is then logged. See the
    classes in `layers` for what may be set afterwards, and `rules` for shapes and types.
    """
