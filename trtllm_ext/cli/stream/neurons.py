"""Feed-forward neurons that erase what they read from the stream, and those that amplify it, layer by layer.

The cosine of what each neuron reads and what it writes, with the norms around it folded in, beside what random
directions would give; the strongest of each layer at both ends. With input (--sentences or --input) the token that
fires each of them, and how much of the stream along what it reads then goes away.
"""

import argparse

from trtllm_ext.cli.stream.options import add_output_options, check_output, new_report, write_report
from trtllm_ext.cli.stream.sources import add_source_options, opened
from trtllm_ext.cli.terminal import table
from trtllm_ext.errors import ConfigError

_SHOWN = 5


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    parser = commands.add_parser("neurons", help="neurons that erase and that amplify, and what fires them")
    add_source_options(parser)
    parser.add_argument(
        "--top", type=int, default=5, metavar="N", help="neurons listed at each end, a layer (default: 5)"
    )
    add_output_options(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    from trtllm_ext.analysis.neurons.showing import HEADER, list_rows, show_neurons, summary_rows
    from trtllm_ext.analysis.neurons.survey import survey_neurons
    from trtllm_ext.cli.terminal import steps

    if arguments.checkpoint_dir is None and arguments.model_dir is None:
        raise ConfigError("neurons are found in a model's matrices: give --checkpoint_dir or --model_dir.")
    if arguments.top < 1:
        raise ConfigError(f"--top {arguments.top}: expected 1 or more.")
    check_output(arguments.output_dir)
    with opened(arguments) as sources:
        assert sources.stream_map is not None
        with steps("neurons") as tell:
            found = survey_neurons(
                sources.stream_map, arguments.top, sources.checkpoint, sources.pieces, tell
            )
        facts = dict(sources.facts)
        if found.agreement is not None:
            facts["tokens"] = str(found.agreement.num_tokens)
    report = new_report(arguments, "Neurons that erase and that amplify", facts)
    show_neurons(report, found)
    rows = [
        [f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row]
        for row in summary_rows(found)
    ]
    table(HEADER, rows, right=range(1, len(HEADER)))
    strongest = [
        [str(cell) if isinstance(cell, str) else f"{cell:+.3f}" for cell in row]
        for row in list_rows(found, _SHOWN)
    ]
    table(["", "neuron", "cosine", "fired most by"], strongest, right=(2,))
    write_report(report, arguments)
    return 0
