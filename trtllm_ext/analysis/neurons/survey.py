"""All feed-forward neurons of a model by layer: cosines, those that erase most, those that amplify, what fires them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from trtllm_ext.analysis.neurons.examples import Agreement, Example, examples
from trtllm_ext.analysis.neurons.neurons import (
    Neuron,
    Summary,
    UnitCosines,
    extremes,
    neuron_units,
    summary,
    unit_cosines,
)
from trtllm_ext.analysis.progress import Progress, silent
from trtllm_ext.analysis.running.stream_pieces import StreamPieces
from trtllm_ext.analysis.stream_map.stream_map import StreamMap
from trtllm_ext.checkpoint.lazy import LazyCheckpoint
from trtllm_ext.errors import ConfigError


@dataclass(frozen=True)
class LayerNeurons:
    """One layer: its units (one, or one an expert), their summaries, and its most erasing and amplifying neurons."""

    layer: int
    units: tuple[UnitCosines, ...]
    summaries: tuple[Summary, ...]
    erasing: tuple[Neuron, ...]
    amplifying: tuple[Neuron, ...]


@dataclass(frozen=True)
class NeuronSurvey:
    """examples: of all listed neurons, in the order of the layers, those that erase first; empty without input."""

    hidden_size: int
    layers: tuple[LayerNeurons, ...]
    examples: tuple[Example, ...]
    agreement: Agreement | None

    @property
    def judged_by(self) -> str:
        return self.layers[0].units[0].unit.judged_by


def survey_neurons(
    stream_map: StreamMap,
    most: int,
    checkpoint: LazyCheckpoint | None = None,
    pieces: StreamPieces | None = None,
    progress: Progress | None = None,
) -> NeuronSurvey:
    """most: neurons listed at each end, a layer. checkpoint, pieces: both, for what fires them.

    Memory: two matrices as they are loaded and pieces of them; a few numbers a neuron.
    Raises ConfigError for one of the two without the other and for `most` below 1, and as `neuron_units`,
    `unit_cosines` and `examples` do.
    """
    if most < 1:
        raise ConfigError(f"{most} neurons at each end; expected 1 or more.")
    if (checkpoint is None) != (pieces is None):
        raise ConfigError(
            "what fires neurons takes input for an engine and the checkpoint: give both or neither."
        )
    tell = progress or silent
    units = neuron_units(stream_map)
    by_layer: dict[int, list[UnitCosines]] = {}
    for number, unit in enumerate(units):
        alive = partial(tell, "cosines", number, len(units))
        by_layer.setdefault(unit.layer, []).append(unit_cosines(unit, alive))
    tell("cosines", len(units), len(units))
    layers = []
    for layer, found in by_layer.items():
        erasing, amplifying = extremes(found, most)
        summaries = tuple(summary(each) for each in found)
        layers.append(LayerNeurons(layer, tuple(found), summaries, tuple(erasing), tuple(amplifying)))
    shown: list[Example] = []
    agreement = None
    if checkpoint is not None and pieces is not None:
        listed = [neuron for each in layers for neuron in (*each.erasing, *each.amplifying)]
        shown, agreement = examples(listed, checkpoint, pieces, progress)
    return NeuronSurvey(stream_map.hidden_size, tuple(layers), tuple(shown), agreement)
