"""The operations that there are plugins for, by their names."""

from trtllm_ext.plugin.feed_forward import FEED_FORWARD
from trtllm_ext.plugin.gated_activation import GATED_ACTIVATION
from trtllm_ext.plugin.operation import Operation
from trtllm_ext.plugin.residual_norm import RESIDUAL_NORM

OPERATIONS: dict[str, Operation] = {
    each.name: each for each in (FEED_FORWARD, GATED_ACTIVATION, RESIDUAL_NORM)
}
# By what a registry is asked for: name, version, namespace.
BY_KEY: dict[tuple[str, str, str], Operation] = {each.key: each for each in OPERATIONS.values()}
