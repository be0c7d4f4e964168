"""The skip connection: the only place in this package that adds one."""

from __future__ import annotations

from typing import Any

from trtllm_ext.checkpoint.contract import PLACEMENTS
from trtllm_ext.errors import ConfigError
from trtllm_ext.graph import Module, Tensor
from trtllm_ext.suggest import nearest


class Residual(Module):
    """output = F(input) + input, with the normalisation where the architecture puts it.

    | placement    | output                            | seen in                      |
    | ------------ | --------------------------------- | ---------------------------- |
    | (no norm)    | x + scale F(x)                    |                              |
    | `'pre'`      | x + scale F(norm(x))              | GPT-2, Llama                 |
    | `'post'`     | norm(x + scale F(x))              | the first Transformer, BERT  |
    | `'branch'`   | x + scale norm(F(x))              | OLMo 2                       |
    | `'sandwich'` | x + scale post_norm(F(norm(x)))   | Gemma 2                      |

    sublayer, norm, post_norm: any modules that keep shape and type. scale: a factor, None for 1.
    Raises ConfigError for what is no Module, for an unknown placement, and for norms that do not fit it.
    """

    def __init__(
        self,
        sublayer: Module,
        norm: Module | None = None,
        placement: str = "pre",
        post_norm: Module | None = None,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        for name, module in (("sublayer", sublayer), ("norm", norm), ("post_norm", post_norm)):
            if not isinstance(module, Module) and (module is not None or name == "sublayer"):
                raise ConfigError(f"{name} must be a Module, not a {type(module).__name__}.")
        placements = [name for name in PLACEMENTS if name != "none"]
        if placement not in placements:
            raise ConfigError(f"placement={placement!r} is not known. {nearest(placement, placements)}")
        # 'pre' is also the default, so it may stand without a norm: a plain skip.
        if norm is None and placement != "pre":
            raise ConfigError(f"placement={placement!r} needs a norm: {PLACEMENTS[placement]}.")
        if (post_norm is not None) != (placement == "sandwich"):
            verb = "needs" if placement == "sandwich" else "has no use for"
            raise ConfigError(f"placement={placement!r} {verb} a post_norm: {PLACEMENTS[placement]}.")
        self.sublayer = sublayer
        self.norm = norm
        self.post_norm = post_norm
        self.placement = placement
        self.scale = scale

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """hidden_states: any shape that the sublayer keeps. Further arguments go to the sublayer."""
        branch = hidden_states
        if self.norm is not None and self.placement in ("pre", "sandwich"):
            branch = self.norm(branch)
        branch = self.sublayer(branch, *args, **kwargs)
        if self.norm is not None and self.placement == "branch":
            branch = self.norm(branch)
        if self.post_norm is not None:
            branch = self.post_norm(branch)
        if self.scale is not None and self.scale != 1.0:
            branch = branch * self.scale
        output = hidden_states + branch
        if self.norm is not None and self.placement == "post":
            output = self.norm(output)
        return output
