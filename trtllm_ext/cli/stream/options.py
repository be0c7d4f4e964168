"""What the subcommands of `stream` share: options of the source and of the report, and how a report is begun."""

import argparse
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING

from trtllm_ext.cli.terminal import paragraph

if TYPE_CHECKING:
    from trtllm_ext.analysis.report import Report


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """--output_dir, for a report."""
    parser.add_argument(
        "--output_dir",
        required=True,
        metavar="DIR",
        help="where the report goes: report.html, a PNG a figure, report.json, arrays.safetensors; new, empty, or an "
        "earlier report, which is replaced as a whole",
    )


def add_input_options(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """--sentences FILE or --input FILE.npz, and --tokenizer: what runs through the engine."""
    source = parser.add_mutually_exclusive_group(required=required)
    source.add_argument(
        "--sentences", metavar="FILE", help="for encoders: text file, one sentence a line; - for stdin"
    )
    source.add_argument(
        "--input", metavar="FILE", help=".npz of the engine's inputs by name, as `stream capture` writes it"
    )
    parser.add_argument(
        "--tokenizer",
        metavar="PATH",
        help="tokenizer.json or a folder with it (default: the one beside the engine or in the checkpoint)",
    )


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """--engine_dir or --checkpoint_dir: a model that is to be run."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--engine_dir", metavar="DIR", help="what `trtllm-ext build --taps '*'` wrote: its taps are read"
    )
    source.add_argument(
        "--checkpoint_dir",
        metavar="DIR",
        help="what `trtllm-ext convert` wrote: an engine with taps is built of it for this command alone",
    )


def check_output(directory: str) -> None:
    """Raise AnalysisError where no report may go: before the work, which may take minutes."""
    from trtllm_ext.analysis.report import REPORT_DIRECTORY
    from trtllm_ext.runtime.atomic import check_target

    check_target(directory, REPORT_DIRECTORY)


def new_report(arguments: argparse.Namespace, title: str, facts: Mapping[str, str]) -> "Report":
    """A report with this command, as it was given, at its top."""
    from trtllm_ext.analysis.report import Report

    return Report(title, command=shlex.join(["trtllm-ext", *arguments.argv]), facts=facts)


def write_report(report: "Report", arguments: argparse.Namespace) -> None:
    """Write it to --output_dir, with progress on stderr, and say what to open."""
    from trtllm_ext.cli.terminal import steps

    with steps("report") as tell:
        directory = report.write(arguments.output_dir, tell)
    paragraph(f"{arguments.output_dir}: open {directory / 'report.html'}")
