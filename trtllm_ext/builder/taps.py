"""Taps: tensors that modules have noted (`Module.register_network_output`), as extra outputs of the network."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

from trtllm_ext.errors import ConfigError, EngineError
from trtllm_ext.graph import Tensor, functional
from trtllm_ext.graph.either import named_notes
from trtllm_ext.graph.module import Note
from trtllm_ext.layers.tensor_parallel import all_tokens
from trtllm_ext.suggest import did_you_mean, nearest

_NOTES = {"taps": "Module.register_network_output", "surgery": "layers.Residual does"}
# How an engine with taps and the same one without have compared in every test, by the fusion level of both.
AGREEMENT = {
    "basic": "with and without taps float32 outputs were tested to be the same, bit for bit",
    "all": "with and without taps float32 outputs were tested to agree within 1e-6 of the largest number "
    "(deterministic: bit for bit)",
}
_UNKNOWN_POINT = "noted by the module under this name; what it means is its own affair"


@dataclass(frozen=True)
class Tap:
    """One extra output. point: the last part of its name, without a number that tells uses of a module apart.

    meaning: a sentence.
    """

    point: str
    meaning: str

    @property
    def is_known(self) -> bool:
        """Whether this package's own layers noted it, and so say what it is."""
        return self.meaning != _UNKNOWN_POINT


def mark_taps(network: Any, model: Any, patterns: Iterable[str]) -> dict[str, Tap]:
    """Mark what `model` has noted in `network`, and `patterns` match, as outputs under their dotted names.

    To be called inside net_guard, after the model's forward; the outputs' types are the tensors' own. A tensor that
    is an input or output already, or is noted twice, goes through an identity layer. Of what is noted as a rank's own
    tokens all ranks' are gathered, so that the tap is whole, and the same, on every rank; the model then has
    `num_tokens`, the number of all, a Tensor of one element.
    patterns: dotted names, or patterns of `fnmatch`, upper and lower case being different.
    Raises ConfigError for a pattern that matches nothing, and for own tokens in a model that has no `num_tokens`.
    """
    wanted = list(patterns)
    noted = (
        {name: note for name, note in named_notes(model) if note.value.network is network} if wanted else {}
    )
    for pattern in wanted:
        if not any(fnmatchcase(name, pattern) for name in noted):
            raise ConfigError(no_match("taps", pattern, noted, type(model).__name__))
    taps = {}
    for name, note in noted.items():
        if any(fnmatchcase(name, pattern) for pattern in wanted):
            tensor = _whole(name, note, model)
            is_bound = tensor.trt_tensor.is_network_input or tensor.trt_tensor.is_network_output
            (functional.identity(tensor) if is_bound else tensor).mark_output(name)
            taps[name] = Tap(note.point, note.meaning or _UNKNOWN_POINT)
    return taps


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


def _whole(name: str, note: Note, model: Any) -> Tensor:
    """What was noted, of all ranks' tokens."""
    if note.token_group is None:
        return note.value
    count = getattr(model, "num_tokens", None)
    if count is None:
        raise ConfigError(
            f"taps: {name} is of one rank's own tokens, and the {type(model).__name__} does not say how many all ranks "
            f"have together. Set num_tokens in its forward: functional.shape(hidden_states, 0) of the whole input."
        )
    return all_tokens(note.value, note.token_group, count)


def no_match(setting: str, pattern: str, noted: Collection[str], model: str) -> str:
    """What to say of a pattern of the setting that matches nothing of what a model notes."""
    if not noted:
        return (
            f"{setting}: {pattern!r} is asked for, but no module of the {model} notes any tensor "
            f"({_NOTES[setting]}). Leave {setting} out."
        )
    ends = sorted({f"*.{name.rpartition('.')[2]}" for name in noted})
    hint = did_you_mean(pattern, [*ends, *noted]) or nearest(pattern, ends)
    what = "notes" if setting == "taps" else "lets a run change"
    how_to_list = f"`trtllm-ext build --dry_run --{setting} '*'` lists every name."
    told = f"{setting}: {pattern!r} matches none of the {len(noted)} tensors that the {model} {what}."
    return f"{told} {hint} {how_to_list}"
