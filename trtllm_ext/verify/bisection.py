"""Narrowing down: an engine built anew with taps, then with every tensor of the first wrong sublayer as an output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from trtllm_ext import backend
from trtllm_ext.builder.building import build
from trtllm_ext.builder.rank_build import Progress
from trtllm_ext.builder.rebuilding import for_this_process
from trtllm_ext.builder.trace import trace
from trtllm_ext.checkpoint import Checkpoint
from trtllm_ext.errors import TrtllmExtError
from trtllm_ext.graph.either import mark, type_of
from trtllm_ext.oracle import OracleError
from trtllm_ext.verify.between import between, in_order, kind_of
from trtllm_ext.verify.comparison import compared, not_finite
from trtllm_ext.verify.plan_constants import first_difference
from trtllm_ext.verify.references import ALL_TAPS, Array, References, model_of
from trtllm_ext.verify.report import Bisection, LayerRow, Row
from trtllm_ext.verify.subject import Subject, run_buffer
from trtllm_ext.verify.tolerances import error_of

# Layers whose outputs are there before anything is computed, or tell shapes.
_NOT_TAPPED = ("CONSTANT", "SHAPE")
_FLOATING = ("FLOAT", "HALF", "BF16")


def bisected(
    subject: Subject,
    checkpoint: Checkpoint,
    references: References,
    exposed: Mapping[str, Array],
    rows: tuple[Row, ...],
    tell: Progress,
) -> Bisection:
    """Build and run the engine with taps, and narrow down what is wrong with it.

    exposed, rows: of the engine as it was given.
    """
    stored = subject.config.build_config
    tell("building with taps", 0)
    tapped = build(model_of(checkpoint, stored), for_this_process(stored, taps=ALL_TAPS)).engine
    tell("running with taps", 0)
    values = run_buffer(tapped, references.inputs)
    del tapped
    own = [name for name in exposed if name in values]
    changes = [error_of(values[name], exposed[name]) for name in own]
    found = Bisection(
        changed_by=float(np.nanmax(changes, initial=0.0)),
        same_bits=all(_same_bits(values[name], exposed[name]) for name in own),
        rows=compared(values, references),
    )
    first = next((row for row in found.rows if not row.is_right), None)
    if first is None:
        if found.clears or all(row.is_right for row in rows):
            return found
        # Taps may have kept the library from what went wrong; without them it would go wrong again.
        tell("building without taps", 0)
        plain = build(model_of(checkpoint, stored), for_this_process(stored)).engine
        again = compared(run_buffer(plain, references.inputs), references)
        is_right = all(row.is_right for row in again)
        differs_at = ""
        if is_right and backend.choice().engine == "embedded":
            differs_at = first_difference(subject.buffer(), plain)
        return replace(found, untapped_is_right=is_right, differs_at=differs_at)
    tell(f"building with every tensor of {first.culprit}", 0)
    found = replace(found, sublayer=first.culprit)
    try:
        layers = _layers(checkpoint, references, first, [row.tensor for row in found.rows], stored)
    except TrtllmExtError as problem:  # what has been found so far is worth more than this step
        return replace(found, failure=str(problem))
    wrong = next((row for row in layers if not row.is_right), None)
    return replace(found, layers=layers, layer=None if wrong is None else wrong.layer)


def _layers(
    checkpoint: Checkpoint, references: References, first: Row, tapped: list[str], stored: Any
) -> tuple[LayerRow, ...]:
    """Every layer between the tap before the first wrong one and that, in the order of execution."""
    traced = trace(model_of(checkpoint, stored), for_this_process(stored, taps=ALL_TAPS))
    network = traced.network.trt_network
    earlier = tapped[: tapped.index(first.tensor)]
    inside = list(between(network, first.tensor, earlier))
    for tensor in _outputs_of(inside, traced.network):
        if not tensor.is_network_output:
            mark(traced.network, tensor)
    engine = traced.builder.build_engine(traced.network, traced.builder_config)
    values = run_buffer(engine, references.inputs)
    del engine
    rows = []
    reference = references.oracle([str(tensor.name) for tensor in _outputs_of(inside, traced.network)])
    for layer in in_order(inside):
        for tensor in _outputs_of([layer], traced.network):
            row = _layer_row(layer, str(tensor.name), values, reference, references)
            if row is not None:
                rows.append(row)
    return tuple(rows)


def _layer_row(
    layer: Any, name: str, values: Mapping[str, Array], reference: Mapping[str, Array], references: References
) -> LayerRow | None:
    if name not in values:
        return None
    inputs = [layer.get_input(index) for index in range(layer.num_inputs)]
    given = {str(each.name): values[str(each.name)] for each in inputs if each and str(each.name) in values}
    given.pop(name, None)
    try:
        alone = references.oracle([name], given)[name]
    except OracleError:
        alone = reference[name]
    return LayerRow(
        layer=str(layer.name),
        kind=kind_of(layer),
        tensor=name,
        error=error_of(values[name], reference[name]),
        alone=error_of(values[name], alone),
        tolerance=references.tolerances.engine,
        not_finite=not_finite(values[name], alone),
    )


def _outputs_of(layers: list[Any], network: Any) -> list[Any]:
    """The tensors that can be outputs."""
    return [
        tensor
        for layer in layers
        if kind_of(layer) not in _NOT_TAPPED
        for tensor in (layer.get_output(index) for index in range(layer.num_outputs))
        if str(type_of(network, tensor)).rsplit(".", 1)[-1] in _FLOATING
    ]


def _same_bits(one: Array, other: Array) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
