"""What neurons read and write, from the matrices of a stack in float64 NumPy."""

import numpy as np
from stack_forms import HIDDEN

from trtllm_ext.checkpoint import load_checkpoint

CENTRING = np.eye(HIDDEN) - np.ones((HIDDEN, HIDDEN)) / HIDDEN


def wide(path):
    return {name: value.astype(np.float64) for name, value in load_checkpoint(path).weights.items()}


def cosine(one, other):
    return one @ other / np.sqrt((one @ one) * (other @ other))


def folded(form, weights, path):
    """What stands to the right of a reading matrix, and to the left of a writing one, as matrices."""
    joins = form.residual
    before, behind = np.eye(HIDDEN), np.eye(HIDDEN)

    def of(norm, name):
        gain = weights[f"{path}.{name}.weight"] + norm.weight_offset if norm.weight else np.ones(HIDDEN)
        return np.diag(gain) @ (CENTRING if norm.kind == "layer_norm" else np.eye(HIDDEN))

    match joins.placement:
        case "pre":
            before = of(joins.norm, "post_layernorm")
        case "branch":
            behind = of(joins.norm, "post_layernorm")
        case "sandwich":
            before = of(joins.norm, "pre_feedforward_layernorm")
            behind = of(joins.post_norm, "post_feedforward_layernorm")
    gate = weights.get(f"{path}.mlp_scale.weight", np.ones(1))
    gate = np.tanh(gate) if joins.gate == "tanh" else gate
    return before, joins.scale * np.diag(np.broadcast_to(gate, HIDDEN)) @ behind
