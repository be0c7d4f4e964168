"""One report with all that applies: decomposition, bandwidth, neurons and virtual weights of a model.

With a checkpoint (or a Hugging Face folder) its matrices are compared; with input (--sentences or --input) it is run,
and its stream taken apart. What does not apply to the model, or to what was given, is named with the reason.
"""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from trtllm_ext.cli.stream.options import add_output_options, check_output, new_report, write_report
from trtllm_ext.cli.stream.sources import Sources, add_source_options, given_input, opened
from trtllm_ext.cli.terminal import paragraph, steps, table
from trtllm_ext.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from trtllm_ext.analysis.progress import Progress
    from trtllm_ext.analysis.report import Report
    from trtllm_ext.analysis.stream_map import StreamMap

_NO_INPUT = "nothing was run: give --sentences or --input, and --checkpoint_dir or --engine_dir"
_NO_WEIGHTS = "the model's matrices were not given: --checkpoint_dir or --model_dir"
# What one waits for with a report that shows other things too.
_LONGEST_S = 600
_MOST_LISTED = 5
# Some seconds of any processor: measuring how long it takes would take as long.
_FEW_OPERATIONS = 1e11
_STEPS = 200  # of Lanczos' iteration, a pair

_Show = Callable[["Report", argparse.Namespace, Sources, "Progress"], None]


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    parser = commands.add_parser("report", help="all that applies to a model, in one report")
    add_source_options(parser)
    add_output_options(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    check_output(arguments.output_dir)
    with opened(arguments) as sources:
        facts = dict(sources.facts)
        if given := arguments.sentences or arguments.input:
            facts["input"] = given
        report = new_report(arguments, "The residual stream", facts)
        told = []
        with steps("report") as tell:
            for name, show in _SECTIONS.items():
                before = len(report.sections)
                reason = _lacking(name, sources) or _shown(show, report, arguments, sources, tell)
                told.append((name, reason or f"{len(report.sections) - before} sections", reason))
        report.section("What is left out")
        left_out = [f"{name[0].upper()}{name[1:]}: {reason}" for name, _, reason in told if reason]
        report.text(*(left_out or ["Nothing: all of it applies."]))
    if len(left_out) == len(_SECTIONS):
        raise ConfigError(f"nothing applies. {' '.join(left_out)}")
    table(["part", "sections"], [row[:2] for row in told if not row[2]])
    for line in left_out:
        paragraph(f"left out: {line}")
    write_report(report, arguments)
    return 0


def _lacking(name: str, sources: Sources) -> str:
    """Why a part cannot be there with what was given; empty where it can."""
    if name == "decomposition" and sources.pieces is None:
        return f"{_NO_INPUT}."
    if name in ("neurons", "virtual weights") and sources.stream_map is None:
        return f"{_NO_WEIGHTS}."
    return ""


def _shown(
    show: _Show, report: "Report", arguments: argparse.Namespace, sources: Sources, tell: "Progress"
) -> str:
    """Add a part's sections; returns the reason where the model's form has no such thing."""
    try:
        show(report, arguments, sources, tell)
    except (ConfigError, CheckpointError) as problem:
        return str(problem)
    return ""


def _show_decomposition(
    report: "Report", arguments: argparse.Namespace, sources: Sources, tell: "Progress"
) -> None:
    from trtllm_ext.analysis.capture.captured_files import embeddings_file
    from trtllm_ext.analysis.decomposition import examine
    from trtllm_ext.analysis.running.engines import weights_of
    from trtllm_ext.cli.npz import read_npz

    assert sources.pieces is not None
    engine = sources.pieces.engine_dir
    embeddings = None
    if arguments.input is not None and embeddings_file(arguments.input).is_file():
        embeddings = read_npz(str(embeddings_file(arguments.input)))
    weights = weights_of(engine, arguments.checkpoint_dir)
    found = examine(engine, weights, **given_input(arguments), embeddings=embeddings, progress=tell)
    found.show(report)


def _show_bandwidth(
    report: "Report", arguments: argparse.Namespace, sources: Sources, tell: "Progress"
) -> None:
    from trtllm_ext.analysis.bandwidth.bandwidth import bandwidth
    from trtllm_ext.analysis.bandwidth.showing import show_bandwidth
    from trtllm_ext.analysis.running.engines import weights_of

    weights = None
    if sources.pieces is not None:
        weights = weights_of(sources.pieces.engine_dir, arguments.checkpoint_dir)
    show_bandwidth(report, bandwidth(sources.pieces, sources.stream_map, weights, tell))


def _show_neurons(
    report: "Report", arguments: argparse.Namespace, sources: Sources, tell: "Progress"
) -> None:
    from trtllm_ext.analysis.neurons.showing import show_neurons
    from trtllm_ext.analysis.neurons.survey import survey_neurons

    assert sources.stream_map is not None
    pieces = None if sources.checkpoint is None else sources.pieces
    show_neurons(report, survey_neurons(sources.stream_map, _MOST_LISTED, sources.checkpoint, pieces, tell))


def _show_virtual_weights(
    report: "Report", arguments: argparse.Namespace, sources: Sources, tell: "Progress"
) -> None:
    from trtllm_ext.analysis.virtual_weights.cost import estimate
    from trtllm_ext.analysis.virtual_weights.showing import show_virtual_weights
    from trtllm_ext.analysis.virtual_weights.virtual_weights import virtual_weights

    assert sources.stream_map is not None
    if _operations(sources.stream_map) > _FEW_OPERATIONS:
        cost = estimate(sources.stream_map, progress=tell)
        if cost.seconds > _LONGEST_S:
            raise ConfigError(
                f"{cost.pairs} pairs take about {cost.seconds / 60:.0f} minutes, more than {_LONGEST_S // 60}; "
                "`trtllm-ext stream weights` computes them."
            )
    show_virtual_weights(report, virtual_weights(sources.stream_map, progress=tell), samples=0, seed=0)


def _operations(found: "StreamMap") -> float:
    """About how many a product of every matrix with itself and the norms of every pair take."""
    writers = [each.matrix.shape[1] for part in found.parts for each in part.writers]
    readers = [each.matrix.shape[0] for part in found.parts for each in part.readers]
    return 2 * found.hidden_size**2 * (sum(writers + readers) + _STEPS * len(writers) * len(readers))


_SECTIONS: dict[str, _Show] = {
    "decomposition": _show_decomposition,
    "bandwidth": _show_bandwidth,
    "neurons": _show_neurons,
    "virtual weights": _show_virtual_weights,
}
