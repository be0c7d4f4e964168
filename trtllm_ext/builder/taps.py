"""Taps: tensors that modules have noted (`Module.register_network_output`), as extra outputs of the network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

from trtllm_ext.errors import ConfigError, EngineError
from trtllm_ext.graph import functional
from trtllm_ext.layers import TAP_POINTS
from trtllm_ext.suggest import did_you_mean, nearest

HOW_TO_LIST = "`trtllm-ext build --dry_run --taps '*'` lists every name."
# How an engine with taps and the same one without compare, by the fusion level that they were built at.
AGREEMENT = {
    "basic": "with and without taps the numbers are the same, bit for bit",
    "all": "with and without taps float32 numbers agree within 1e-6 relative (deterministic: bit for bit)",
}
_UNKNOWN_POINT = "noted by the module under this name; what it means is its own affair"


@dataclass(frozen=True)
class Tap:
    """One extra output. point: the last part of its name. meaning: a sentence."""

    point: str
    meaning: str


def mark_taps(network: Any, model: Any, patterns: Iterable[str]) -> dict[str, Tap]:
    """Mark what `model` has noted in `network`, and `patterns` match, as outputs under their dotted names.

    To be called inside net_guard, after the model's forward; the outputs' types are the tensors' own. A tensor that
    is an input or output already, or is noted twice, goes through an identity layer.
    patterns: dotted names, or patterns of `fnmatch`, upper and lower case being different.
    Raises ConfigError for a pattern that matches nothing.
    """
    wanted = list(patterns)
    noted = {name: tensor for name, tensor in _noted(model) if tensor.network is network} if wanted else {}
    for pattern in wanted:
        if not any(fnmatchcase(name, pattern) for name in noted):
            raise ConfigError(_no_match(pattern, noted, type(model).__name__))
    taps = {}
    for name, tensor in noted.items():
        if any(fnmatchcase(name, pattern) for pattern in wanted):
            is_bound = tensor.trt_tensor.is_network_input or tensor.trt_tensor.is_network_output
            (functional.identity(tensor) if is_bound else tensor).mark_output(name)
            taps[name] = tap_named(name)
    return taps


def tap_named(name: str) -> Tap:
    """What the last part of a dotted name says."""
    point = name.rpartition(".")[2]
    return Tap(point, TAP_POINTS.get(point, _UNKNOWN_POINT))


def taps_to_json(taps: Mapping[str, Tap]) -> dict[str, dict[str, str]]:
    """As an engine directory's config.json has them."""
    return {name: asdict(tap) for name, tap in taps.items()}


def taps_from_json(values: Any) -> dict[str, Tap]:
    """The reverse of `taps_to_json`. Raises EngineError for anything else."""
    try:
        return {str(name): Tap(**tap) for name, tap in values.items()}
    except (AttributeError, TypeError) as problem:
        raise EngineError(
            f"the engine's config has {values!r:.80} as taps, where each name has a point and a meaning ({problem})."
        ) from problem


def _noted(model: Any) -> Iterable[tuple[str, Any]]:
    # Whatever has the graph's Module below it; a model need not be one.
    return model.named_network_outputs() if hasattr(model, "named_network_outputs") else ()


def _no_match(pattern: str, noted: Mapping[str, Any], model: str) -> str:
    if not noted:
        return (
            f"taps: {pattern!r} is asked for, but no module of the {model} notes any tensor "
            f"(Module.register_network_output). Leave taps out."
        )
    ends = sorted({f"*.{name.rpartition('.')[2]}" for name in noted})
    hint = did_you_mean(pattern, [*ends, *noted]) or nearest(pattern, ends)
    return f"taps: {pattern!r} matches none of the {len(noted)} tensors that the {model} notes. {hint} {HOW_TO_LIST}"
