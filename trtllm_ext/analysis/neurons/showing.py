"""A NeuronSurvey as sections of a report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from trtllm_ext.analysis.neurons.examples import Example
from trtllm_ext.analysis.neurons.neurons import SIGMAS, Neuron
from trtllm_ext.analysis.neurons.random_directions import random_histogram
from trtllm_ext.analysis.neurons.survey import LayerNeurons, NeuronSurvey
from trtllm_ext.analysis.report import Report

HEADER = [
    "layer",
    "neurons",
    "mean",
    "std",
    "least",
    "most",
    "below -5 sigma",
    "above 5 sigma",
    "at random, both",
]
_EDGES = np.linspace(-1, 1, 41)
# Rows of experts in one heat map and table; beyond, a layer is a row.
_MOST_UNITS = 128


def show_neurons(report: Report, found: NeuronSurvey) -> None:
    """Add its sections: the distribution by layer, the lists, what fires them where there is input."""
    _show_distribution(report, found)
    _show_lists(report, found)
    if found.examples:
        _show_examples(report, found)


def summary_rows(found: NeuronSurvey) -> list[list[object]]:
    """A row a layer, under HEADER."""
    return [
        _row(str(layer.layer), [layer.summaries[i] for i in range(len(layer.units))])
        for layer in found.layers
    ]


def list_rows(found: NeuronSurvey, most: int) -> list[list[object]]:
    """The `most` strongest of all layers at both ends: neuron, cosine, and the token that fires it where known."""
    texts = {each.neuron.name: each.text or "" for each in found.examples}
    erasing = sorted((each for layer in found.layers for each in layer.erasing), key=lambda each: each.cosine)
    growing = sorted(
        (each for layer in found.layers for each in layer.amplifying), key=lambda each: -each.cosine
    )
    return [
        [kind, each.name, each.cosine, texts.get(each.name, "")]
        for kind, neurons in (("erases", erasing), ("amplifies", growing))
        for each in neurons[:most]
    ]


def _row(name: str, parts: Sequence[Any]) -> list[object]:
    """Of one unit, or of the units of a layer together."""
    counts = np.array([each.count for each in parts], float)
    mean = float(counts @ [each.mean for each in parts] / counts.sum())
    square = float(counts @ [each.std**2 + each.mean**2 for each in parts] / counts.sum())
    return [
        name,
        int(counts.sum()),
        mean,
        max(square - mean**2, 0.0) ** 0.5,
        min(each.least for each in parts),
        max(each.most for each in parts),
        sum(each.below for each in parts),
        sum(each.above for each in parts),
        sum(each.expected_beyond for each in parts),
    ]


def _show_distribution(report: Report, found: NeuronSurvey) -> None:
    first = found.layers[0].summaries[0]
    reader = found.judged_by
    gated = reader == "gate"
    report.section("Neurons that erase, neurons that amplify")
    texts = [
        f"The cosine between what a neuron reads (its row of `{reader}`, with the norm's gain and LayerNorm's centring "
        "folded in) and what it writes (its column of `proj`, with norm, gate and scale behind it). Near -1 it takes "
        "out of the stream what it reads, where its activation is positive; near 1 it makes more of it.",
        f"Random directions in {found.hidden_size} dimensions have cosines of mean 0 and standard deviation "
        f"{first.random_std:.4f}; sigma is that. At random, both: how many of as many random directions would lie "
        f"beyond {SIGMAS:g} sigma, with either sign.",
    ]
    if gated:
        texts.append(
            "This form is gated: `fc` goes through the activation and `gate` is a factor beside it, in which what is "
            "written is linear. Neurons are judged by `gate`; the cosine with `fc` stands beside it."
        )
    remarks = sorted(
        {each.unit.part for layer in found.layers for each in layer.units if np.isnan(each.judged).any()}
    )
    if remarks:
        texts.append(
            f"Neurons whose read or write direction is zero have no cosine: in {', '.join(remarks)}."
        )
    report.text(*texts)
    report.table("neurons", HEADER, summary_rows(found), "Cosines by layer.")
    rows = [
        _row(f"{layer.layer}.{unit.unit.label}", [summary])
        for layer in found.layers
        if len(layer.units) > 1
        for unit, summary in zip(layer.units, layer.summaries, strict=True)
    ]
    if rows:
        report.table("neurons_by_expert", ["expert", *HEADER[1:]], rows, "Cosines by expert.")
    _show_histogram(report, found, bool(rows) and len(rows) <= _MOST_UNITS)
    for layer in found.layers:
        for name in layer.units[0].read:
            values = np.concatenate([unit.read[name] for unit in layer.units])
            report.arrays(f"neuron_cosines.{layer.layer}.{name}", values)


def _show_histogram(report: Report, found: NeuronSurvey, by_expert: bool) -> None:
    labels, shares = [], []
    for layer in found.layers:
        groups = [(f"{layer.layer}", layer.units)]
        if by_expert:
            groups = [(f"{layer.layer}.{unit.unit.label}", (unit,)) for unit in layer.units]
        for label, units in groups:
            labels.append(label)
            shares.append(_histogram(np.concatenate([unit.judged for unit in units])))
    random = random_histogram(found.layers[0].units[0].size, _EDGES)
    middles = [f"{middle:+.3f}" for middle in (_EDGES[:-1] + _EDGES[1:]) / 2]
    report.heat_map(
        "cosines_by_layer", np.log10(_positive(np.array([*shares, random]))), [*labels, "random"], middles,
        "Neurons by the cosine of read and write direction; the last row is what random directions have. Empty: none.",
        "log10 of the share of the neurons", row_label="layer", column_label="cosine",
    )  # fmt: skip
    total = _histogram(np.concatenate([unit.judged for layer in found.layers for unit in layer.units]))
    report.lines(
        "cosines", (_EDGES[:-1] + _EDGES[1:]) / 2,
        {"all layers": _positive(total), "random directions": _positive(random)},
        "cosine of read and write direction", "share of the neurons",
        "All neurons beside random directions.", log=True,
    )  # fmt: skip


def _positive(shares: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What a logarithmic axis can show."""
    return np.where(shares > 1e-9, shares, np.nan)


def _histogram(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    kept = np.clip(values[np.isfinite(values)], -1, 1)
    return np.histogram(kept, _EDGES)[0] / max(len(kept), 1)


def _show_lists(report: Report, found: NeuronSurvey) -> None:
    report.section("The strongest of each layer")
    names = list(found.layers[0].units[0].read)
    header = ["layer", "neuron", *(f"cosine with {name}" for name in names), *(f"length of {name}" for name in names),
              "length of proj"]  # fmt: skip
    if len(names) > 1:
        header.append("cosine of fc and gate")
    lists = {"erasing": "are nearly opposite", "amplifying": "are nearly the same"}
    for name, what in lists.items():
        rows = [_list_row(layer, neuron) for layer in found.layers for neuron in getattr(layer, name)]
        report.table(name, header, rows, f"Neurons whose directions of reading and writing {what}.")


def _list_row(layer: LayerNeurons, neuron: Neuron) -> list[object]:
    unit = next(each for each in layer.units if each.unit is neuron.unit)
    lengths = [float(each[neuron.index]) for each in unit.read_norms.values()]
    row: list[object] = [layer.layer, neuron.name, *neuron.cosines.values(), *lengths]
    row.append(float(unit.write_norms[neuron.index]))
    return row if unit.between is None else [*row, float(unit.between[neuron.index])]


def _show_examples(report: Report, found: NeuronSurvey) -> None:
    agreement = found.agreement
    assert agreement is not None
    worst = max(agreement.errors, key=lambda part: agreement.errors[part])
    left_out = f"; {agreement.not_compared} tokens near another choice of experts not compared" * bool(
        agreement.not_compared
    )
    report.section("What fires them, and what then goes away")
    report.text(
        f"Of {agreement.num_tokens} tokens the one with the largest activation by magnitude, in brackets among its "
        "neighbours; computed in float64 from the engine's stream with the checkpoint's weights. All neurons of each "
        f"layer add up to the engine's contribution: the largest difference is {agreement.errors[worst]:.1e} of its "
        f"largest number ({worst}), allowed is {agreement.allowed:.0e}{left_out}.",
        "Component: of the stream along the neuron's read direction at that token, and what the neuron alone and its "
        "whole sublayer add to it. Goes away: 1 - rms of the component with it / rms without it, over all tokens: how "
        "much of the stream's norm along the read direction the neuron, or the whole sublayer, takes out; negative "
        "where there is more of it afterwards.",
    )
    header = ["neuron", "cosine", "activation", "token", "component", "neuron adds", "sublayer adds", "goes away",
              "goes away with the sublayer"]  # fmt: skip
    report.table(
        "examples", header, [_example_row(each) for each in found.examples], "The neurons listed above."
    )


def _example_row(example: Example) -> list[object]:
    text = example.text or ("no token reaches it" if example.token < 0 else f"token {example.token}")
    values = [example.before, example.own, example.sublayer, example.gone, example.gone_with_sublayer]
    return [example.neuron.name, example.neuron.cosine, example.activation, text, *values]
