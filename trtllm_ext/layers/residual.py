"""The skip connection: the only place in this package that adds one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from trtllm_ext.checkpoint.contract import PLACEMENTS
from trtllm_ext.checkpoint.dtypes import weight_dtype
from trtllm_ext.errors import ConfigError
from trtllm_ext.graph import Module, Tensor, functional, str_dtype_to_trt
from trtllm_ext.graph.either import note
from trtllm_ext.graph.late import LateTensor
from trtllm_ext.layers import plugin_roads
from trtllm_ext.layers.clamp import clamped
from trtllm_ext.suggest import nearest

# What a residual block notes on its sublayer with `register_network_output`, to be looked at as an extra output: in
# the plain case. A block that does something else says so, in `_meanings`.
TAP_POINTS: dict[str, str] = {
    "before": "the residual stream before the sublayer's contribution is added",
    "contribution": "what is added to the residual stream: the sublayer's output after its norm, gate and scale",
    "after": "the residual stream after the contribution is added, before a norm of the sum",
}
_STREAMS_POINTS = {
    "before": "the residual streams before hyper-connections mix them and the sublayer's contribution is added",
    "contribution": "the sublayer's output after its norm, gate and scale; each mixed stream adds it times its factor",
    "after": "the residual streams after hyper-connections have mixed them and added the contribution to each",
}
_PARALLEL_POINTS = {
    "before": "the residual stream before the contributions of attention and feed-forward are added",
    "contribution": "what is added to the residual stream, in one sum with that of the sublayer at its side: the "
    "sublayer's output",
    "after": "the residual stream after the contributions of attention and feed-forward are added, before a norm of "
    "the sum",
}


class Residual(Module):
    """output = F(input) + input, with the normalisation where the architecture puts it.

    | placement    | output                    | seen in                      |
    | ------------ | ------------------------- | ---------------------------- |
    | (no norm)    | x + F(x)                  |                              |
    | `'pre'`      | x + F(norm(x))            | GPT-2, Llama                 |
    | `'post'`     | norm(x + F(x))            | the first Transformer, BERT  |
    | `'branch'`   | x + norm(F(x))            | OLMo 2                       |
    | `'sandwich'` | x + post_norm(F(norm(x))) | Gemma 2                      |

    sublayer, norm, post_norm: any modules that keep shape and type. For attention and feed-forward side by side the
        sublayer is a `ParallelSublayers`, and the placement 'pre' or 'post'.
    scale: a factor of what is added (Granite). gate: a module that multiplies it by learned factors, such as
        LayerScale or ScalarGate. skip_scale: a factor of x (DeepNorm's alpha). None stands for 1.
    stream_dtype: the type of x and of the output where it is not the sublayer's own, which is then `dtype`: such as
        a float32 stream through bfloat16 sublayers. A norm reads the stream as it is; the sublayer's input is
        rounded to `dtype`; what it gives is widened before gate and scale; a 'post' norm should give `stream_dtype`.
    clamp: bring a float16 sum that has left the type's range back into it, as T5 does: to +-65504, or to +-64512
        (65504 - 1000, rounded) where any element of the sum is infinite. Other types stay as they are.
    connections: a HyperConnections module, for a stream of several parts, (..., num_streams, hidden_size).
    token_group: the ranks that the tokens are dealt out to, where x is this rank's tokens only (sequence parallelism)
        and the sublayer takes and gives such. Everything here is then done to a rank's own tokens, but for the clamp,
        which looks at those of all.
    A sublayer whose weights are split over ranks adds their shares up itself: x, the output and what is noted of them
    are the same on every rank, but for own tokens, which are noted as such.
    Raises ConfigError for what is no Module, an unknown placement or type, and parts that do not fit each other.
    """

    def __init__(
        self,
        sublayer: Module,
        norm: Module | None = None,
        placement: str = "pre",
        post_norm: Module | None = None,
        scale: float | None = None,
        *,
        skip_scale: float | None = None,
        gate: Module | None = None,
        stream_dtype: str | None = None,
        dtype: str | None = None,
        clamp: bool = False,
        connections: Module | None = None,
        token_group: list[int] | None = None,
    ) -> None:
        super().__init__()
        _check_modules({"sublayer": sublayer})
        _check_modules(
            {"norm": norm, "post_norm": post_norm, "gate": gate, "connections": connections}, optional=True
        )
        _check_placement(placement, norm, post_norm)
        if (stream_dtype is None) != (dtype is None):
            raise ConfigError(
                f"stream_dtype={stream_dtype!r} with dtype={dtype!r}: give both, the type of the residual stream and "
                "the type that the sublayer computes in, or neither."
            )
        for name in (stream_dtype, dtype):
            if name is not None:
                weight_dtype(name)
        if isinstance(sublayer, ParallelSublayers):
            _check_parallel(placement, scale, gate, connections)
        if connections is not None and (placement == "post" or clamp or skip_scale not in (None, 1.0)):
            raise ConfigError(
                "connections mix several streams, so placement 'post', skip_scale and clamp, which act on a single "
                "one, cannot be given with them."
            )
        self.sublayer = sublayer
        self.norm = norm
        self.post_norm = post_norm
        self.gate = gate
        self.connections = connections
        self.placement = placement
        self.scale = scale
        self.skip_scale = skip_scale
        self.stream_dtype = stream_dtype
        self.dtype = dtype
        self.clamp = clamp
        self.token_group = token_group

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """hidden_states: any shape that the sublayer keeps. Further arguments go to the sublayer."""
        meanings = self._meanings()
        hidden_states = self._noted("before", hidden_states, meanings)
        if self.connections is None:
            output = self._joined(meanings, hidden_states, *args, **kwargs)
        else:
            x, mixed, weights = self.connections(hidden_states)
            contribution = self._noted("contribution", self._contribution(x, *args, **kwargs), meanings)
            output = mixed + weights * functional.unsqueeze(contribution, -2)
        if self.clamp and output.dtype == str_dtype_to_trt("float16"):
            output = clamped(output, self.token_group)
            meanings["after"] += "; brought back into float16's range"
        output = self._noted("after", output, meanings)
        if self.norm is None or self.placement != "post":
            return output
        output = self.norm(output)
        return output if self.stream_dtype is None else functional.cast(output, self.stream_dtype)

    def _joined(self, meanings: Mapping[str, str], stream: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The sum of a single stream and what joins it, which is noted."""
        if not args and not kwargs and plugin_roads.hands_skip_over(self, stream):
            x = stream if self.norm is None or self.placement == "post" else self.norm(stream)
            output: Tensor = self.sublayer(x, residual=_scaled(stream, self.skip_scale))
            self._noted("contribution", LateTensor(output, partial(self.sublayer, x)), meanings)
            return output
        contribution = self._noted("contribution", self._contribution(stream, *args, **kwargs), meanings)
        skip = _scaled(stream, self.skip_scale)
        return plugin_roads.total(skip, contribution, is_read_again=self.placement != "post")

    def _noted(self, point: str, value: Tensor, meanings: Mapping[str, str]) -> Tensor:
        """What goes on in the place of `value`: noted on the sublayer, and changed where a build asks for that."""
        where = self.sublayer
        if isinstance(where, ParallelSublayers):
            if point == "contribution":
                return value  # a sum of two, which have been noted one by one
            where = where.feed_forward
        plugin_roads.tell_of_change(where, point, value)
        result: Tensor = note(where, point, value, meanings[point], self.token_group)
        return result

    def _meanings(self) -> dict[str, str]:
        """What the tensors are that this block notes: TAP_POINTS, or what holds in its place."""
        if self.connections is not None:
            meanings = dict(_STREAMS_POINTS)
        else:
            meanings = dict(_PARALLEL_POINTS if isinstance(self.sublayer, ParallelSublayers) else TAP_POINTS)
        if self.skip_scale not in (None, 1.0):
            meanings["before"] += f" to {self.skip_scale:g} times it"
        return meanings

    def _contribution(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """What joins the stream, in the stream's type."""
        if self.norm is not None and self.placement in ("pre", "sandwich"):
            x = self.norm(x)
        if isinstance(self.sublayer, ParallelSublayers) and self.stream_dtype is not None:
            # It may have norms of its own, which read the stream as it is.
            return self.sublayer(x, *args, stream_dtype=self.stream_dtype, dtype=self.dtype, **kwargs)
        x = x if self.dtype is None else functional.cast(x, self.dtype)
        x = self.sublayer(x, *args, **kwargs)
        if self.norm is not None and self.placement == "branch":
            x = self.norm(x)
        if self.post_norm is not None:
            x = self.post_norm(x)
        x = x if self.stream_dtype is None else functional.cast(x, self.stream_dtype)
        if self.gate is not None:
            x = self.gate(x)
        return _scaled(x, self.scale)


class ParallelSublayers(Module):
    """attention(attention_norm(x)) + feed_forward(feed_forward_norm(x)): both read the same x (GPT-J, GPT-NeoX).

    As the sublayer of a Residual, with one norm for both as the Residual's (GPT-J, Falcon, Cohere), or one each here
    (GPT-NeoX). The Residual notes the stream around both under the feed-forward's name. Every module keeps shape and
    type; where the two give different types, the sum has attention's, or the stream's where that is given. Sublayers
    whose weights are split over ranks add their shares up each for itself: two sums over the ranks.
    token_group: as a Residual's.
    Raises ConfigError for what is no Module.
    """

    def __init__(
        self,
        attention: Module,
        feed_forward: Module,
        attention_norm: Module | None = None,
        feed_forward_norm: Module | None = None,
        *,
        token_group: list[int] | None = None,
    ) -> None:
        super().__init__()
        _check_modules({"attention": attention, "feed_forward": feed_forward})
        _check_modules(
            {"attention_norm": attention_norm, "feed_forward_norm": feed_forward_norm}, optional=True
        )
        self.attention = attention
        self.feed_forward = feed_forward
        self.attention_norm = attention_norm
        self.feed_forward_norm = feed_forward_norm
        self.token_group = token_group

    def forward(
        self,
        hidden_states: Tensor,
        *args: Any,
        stream_dtype: str | None = None,
        dtype: str | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """hidden_states: any shape that the sublayers keep. Further arguments go to `attention`.

        stream_dtype, dtype: a Residual's, where it has them: the norms here read hidden_states as they are, the
        sublayers' input is rounded to `dtype`, and what they give is brought to `stream_dtype` before it is added.
        """
        x = hidden_states if self.attention_norm is None else self.attention_norm(hidden_states)
        y = hidden_states if self.feed_forward_norm is None else self.feed_forward_norm(hidden_states)
        if dtype is not None:
            x, y = functional.cast(x, dtype), functional.cast(y, dtype)
        attended, fed = self.attention(x, *args, **kwargs), self.feed_forward(y)
        if stream_dtype is not None:
            attended = functional.cast(attended, stream_dtype)
        fed = functional.cast(fed, attended.dtype)
        meaning = _PARALLEL_POINTS["contribution"]
        attended = note(self.attention, "contribution", attended, meaning, self.token_group)
        fed = note(self.feed_forward, "contribution", fed, meaning, self.token_group)
        return attended + fed


class GivenContribution(Module):
    """In an attention's place: gives what it is given, computed elsewhere."""

    def forward(self, hidden_states: Tensor, contribution: Tensor) -> Tensor:
        """hidden_states: not read. contribution: of its shape."""
        return contribution


def _check_modules(parts: Mapping[str, object], optional: bool = False) -> None:
    for name, part in parts.items():
        if not isinstance(part, Module) and not (optional and part is None):
            raise ConfigError(f"{name} must be a Module, not a {type(part).__name__}.")


def _check_placement(placement: str, norm: Module | None, post_norm: Module | None) -> None:
    placements = [name for name in PLACEMENTS if name != "none"]
    if placement not in placements:
        raise ConfigError(f"placement={placement!r} is not known. {nearest(placement, placements)}")
    # 'pre' is also the default, so it may stand without a norm: a plain skip.
    if norm is None and placement != "pre":
        raise ConfigError(f"placement={placement!r} needs a norm: {PLACEMENTS[placement]}.")
    if (post_norm is not None) != (placement == "sandwich"):
        verb = "needs" if placement == "sandwich" else "has no use for"
        raise ConfigError(f"placement={placement!r} {verb} a post_norm: {PLACEMENTS[placement]}.")


def _check_parallel(
    placement: str, scale: float | None, gate: Module | None, connections: Module | None
) -> None:
    """Refuse what changes the sum of the two sublayers' contributions before it joins the stream."""
    refused = {
        f"placement={placement!r}": placement in ("branch", "sandwich"),
        f"scale={scale}": scale not in (None, 1.0),
        f"gate={type(gate).__name__}": gate is not None,
        "connections": connections is not None,
    }
    for name, is_there in refused.items():
        if is_there:
            raise ConfigError(
                f"{name} cannot stand around a ParallelSublayers: it would act on the sum of attention and "
                "feed-forward, of which each is added to the stream as it is. Put it into the sublayers (a Module "
                "around each, with its own factor or norm), or use one Residual each."
            )


def _scaled(x: Tensor, factor: float | None) -> Tensor:
    """x * factor, rounded once: a factor rounded to a narrow type would be wrong by the same share in each layer."""
    if factor is None or factor == 1.0:
        return x
    return functional.cast(functional.cast(x, "float32") * factor, x.dtype)
