"""Plans of torch_ops.feed_forward: one a form, a device and a power of two of tokens, made when first needed."""

import atexit
import threading
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

from trtllm_ext.plugin.feed_forward_plan import FeedForwardForm, FeedForwardPlan
from trtllm_ext.plugin.kernels import Kernels, load_kernels

# Batches of all usual sizes share one plan: it chooses by buckets of tokens in any case.
_LEAST_LIMIT = 8192
# Of a workspace. torch's own allocator gives more; others that it can be given need not.
_ALIGNMENT = 256

_plans: dict[tuple[torch.device, FeedForwardForm], FeedForwardPlan] = {}
_lock = threading.Lock()


@cache
def kernels() -> Kernels:
    """The library of the process, looked for once: an operator's call has no time for it."""
    return load_kernels()


def plan_for(tensors: Mapping[str, Tensor | None], settings: Mapping[str, Any]) -> FeedForwardPlan:
    """The plan for tensors as `torch_checks.feed_forward_tensors` has them, of the current device."""
    x, fc_weight = tensors["x"], tensors["fc_weight"]
    assert x is not None and fc_weight is not None
    hidden = x.shape[-1]
    num_tokens = x.numel() // hidden if hidden else 0
    form = FeedForwardForm(
        hidden_size=hidden,
        ffn_hidden_size=fc_weight.shape[0],
        max_num_tokens=max(_LEAST_LIMIT, 1 << max(num_tokens - 1, 0).bit_length()),
        dtype=str(x.dtype).removeprefix("torch."),
        gated=tensors["gate_weight"] is not None,
        has_fc_bias=tensors["fc_bias"] is not None,
        has_gate_bias=tensors["gate_bias"] is not None,
        has_proj_bias=tensors["proj_bias"] is not None,
        has_residual=tensors["residual"] is not None,
        **settings,
    )
    with _lock:
        found = _plans.get((x.device, form))
        if found is None:
            found = _plans[x.device, form] = FeedForwardPlan(kernels(), form)
        return found


def workspace_of(plan: FeedForwardPlan, x: Tensor) -> Tensor:
    """Workspace for a run on x, from torch's allocator: by stream, and kept where a graph is being captured."""
    size = plan.workspace_size(x.numel() // max(x.shape[-1], 1))
    whole = torch.empty(size + _ALIGNMENT, dtype=torch.uint8, device=x.device)
    first = -whole.data_ptr() % _ALIGNMENT
    return whole[first : first + size]


@atexit.register
def forget_plans() -> None:
    """Give all plans back, with what tuning found; none may be running. The next call makes a new one."""
    with _lock:
        for plan in _plans.values():
            plan.close()
        _plans.clear()
