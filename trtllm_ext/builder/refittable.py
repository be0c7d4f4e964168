"""A network's weights under the names of its parameters, by which a refit finds them."""

from typing import Any

from trtllm_ext import backend
from trtllm_ext.errors import BuildError
from trtllm_ext.graph.functional.constants import weights_of


def mark_refittable(network: Any) -> None:
    """Name the weights of a network after its parameters, and mark them where the library has marks.

    Parameters that the network does not use are left out. Two that share their memory are one weight to TensorRT, which
    then has the name of the last. Raises BuildError for weights that cannot be named, and when there are none.
    """
    trt_network = network.trt_network
    marks = hasattr(trt_network, "mark_weights_refittable")
    named = False
    for name, parameter in network.named_parameters or ():
        if _set_name(network, parameter, name):
            named = True
            # At once: a name is lost when the same memory gets another one.
            if marks and not trt_network.mark_weights_refittable(name):
                raise _refused(name, "TensorRT does not mark them")
    if not named:
        raise BuildError(
            "use_refit or use_strip_plan is asked for, but the network has no named parameter whose weights could be "
            "exchanged. Give them with network.set_named_parameters(model.named_parameters())."
        )


def _set_name(network: Any, parameter: Any, name: str) -> bool:
    """Name one parameter's weights; False where the network does not use it."""
    if hasattr(parameter, "set_name"):  # one of TensorRT-LLM's, which knows its weights
        used = parameter._get_weights(network) is not None
        if used and not parameter.set_name(name, network):
            raise _refused(name, "TensorRT refuses the name")
        return used
    if not network.uses(parameter):
        return False
    mark = network.log_mark()
    weights = weights_of(backend.tensorrt(), parameter.dtype, parameter.raw_value)
    if not network.trt_network.set_weights_name(weights, name):
        raise _refused(name, network.logged_since(mark))
    return True


def _refused(name: str, why: str) -> BuildError:
    return BuildError(
        f"the weights {name!r} cannot be made exchangeable: {why}. Build without use_refit and use_strip_plan."
    )
