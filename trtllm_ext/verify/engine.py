"""An engine beside the oracle and the formulas: where it first differs, and whose fault that is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from trtllm_ext.builder.engine import Engine
from trtllm_ext.builder.rank_build import Progress, silent
from trtllm_ext.checkpoint import Checkpoint
from trtllm_ext.verify.bisection import bisected
from trtllm_ext.verify.comparison import compared
from trtllm_ext.verify.notes import notes_of
from trtllm_ext.verify.own_weights import differing, own_checkpoint
from trtllm_ext.verify.references import References
from trtllm_ext.verify.report import Report
from trtllm_ext.verify.subject import Subject, check_ids, checkpoint_for, subject_of, typed_inputs
from trtllm_ext.verify.verdict import findings_of


def verify_engine(
    engine: str | os.PathLike[str] | Engine,
    checkpoint: str | os.PathLike[str] | Checkpoint | None = None,
    *,
    inputs: Mapping[str, Any] | None = None,
    bisect: bool = False,
    allow_nan: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Run an engine of one rank and compare all that it exposes with float64 references, sublayer by sublayer.

    The references are the oracle on the network, defined anew, and the contract's formulas. What the engine exposes are
    its outputs, and its taps where it was built with them. Each tensor is judged by the step that made it: its
    references are computed from the engine's own tensors before it, so that roundings which add up are nobody's fault.
    engine: an engine directory, or an Engine in memory, as `build` returns it.
    checkpoint: a directory, or one in memory. Without it the weights are the engine's own, which the embedded engine
        gives back and NVIDIA's does not.
    inputs: an array for each of the engine's inputs; by default seeded ones.
    bisect: build the engine anew with taps, in memory and of the stored build config, to find the first wrong sublayer
        and in it the first wrong layer.
    allow_nan: accept NaN and infinity in weights.
    Memory: some copies of the weights in float64. Raises ConfigError for a checkpoint of another model, an engine of
    several ranks, and where there are no weights; CheckpointError, InputError, BuildError, EngineError, OracleError.
    """
    tell = progress or silent
    subject = subject_of(engine)
    given = subject.seeded_inputs() if inputs is None else typed_inputs(subject, inputs)
    check_ids(subject.config.pretrained_config, given)
    tell("running the engine", 0)
    exposed = subject.run(given)
    if checkpoint is None:
        tell("taking the weights from the engine", 0)
        known = own_checkpoint(subject)
    else:
        tell("reading the checkpoint", 0)
        known = checkpoint_for(subject, checkpoint, allow_nan)
    tell("evaluating the references", 0)
    references = References(known, subject.config.build_config, given, subject.tolerances, exposed)
    tell("comparing", 0)
    rows, network = compared(exposed, references), references.network_fault()
    others: tuple[str, ...] = ()
    weights = "own"
    if checkpoint is not None:
        # Of right numbers too: a weight that differs by little hides within a narrow type's tolerance.
        tell("comparing the weights", 0)
        others, weights = _weights_of(subject, known)
    bisection = None
    if bisect:
        bisection = bisected(subject, known, references, exposed, rows, tell)
    shapes = {name: tuple(value.shape) for name, value in given.items()}
    report = Report(
        subject.name, subject.dtype, rows, network, "", (), shapes, others, bisection, (), weights
    )
    return report.told(findings_of(report), notes_of(report, references, exposed))


def _weights_of(subject: Subject, checkpoint: Checkpoint) -> tuple[tuple[str, ...], str]:
    """Names of weights that differ, and what that makes of them all: a Report's `weights`."""
    found = differing(subject, checkpoint)
    if found is None:
        return (), "unknown"
    return found, "other" if found else "same"
