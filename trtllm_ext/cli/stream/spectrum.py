"""How many directions the stream fills from layer to layer, which dimensions hold its norm, and who fills it.

With input (--sentences or --input): the spectrum of the stream before each sum and at its end, its effective dimension,
massive activations by name, and how much of the stream's variance each sublayer brings. Of the matrices alone: how many
directions each writer reaches. Any number of tokens takes the same memory.
"""

import argparse

from trtllm_ext.cli.stream.options import add_output_options, check_output, new_report, write_report
from trtllm_ext.cli.stream.sources import add_source_options, opened
from trtllm_ext.cli.terminal import table


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    parser = commands.add_parser("spectrum", help="how many directions the stream fills, and who fills them")
    add_source_options(parser)
    add_output_options(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    from trtllm_ext.analysis.bandwidth.bandwidth import bandwidth
    from trtllm_ext.analysis.bandwidth.showing import HEADER, show_bandwidth, summary_rows
    from trtllm_ext.analysis.running.engines import weights_of
    from trtllm_ext.cli.terminal import steps

    check_output(arguments.output_dir)
    with opened(arguments) as sources:
        with steps("spectrum") as tell:
            weights = None
            if sources.pieces is not None:
                weights = weights_of(sources.pieces.engine_dir, arguments.checkpoint_dir)
            found = bandwidth(sources.pieces, sources.stream_map, weights, tell)
        facts = {**sources.facts, **({"tokens": str(found.num_tokens)} if found.points else {})}
    report = new_report(arguments, "The bandwidth of the residual stream", facts)
    show_bandwidth(report, found)
    if found.points:
        rows = [
            [f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row]
            for row in summary_rows(found)
        ]
        table(HEADER, rows, right=range(1, len(HEADER)))
    else:
        rows = [[each.part, f"{each.effective_rank:.4g}", str(each.leading)] for each in found.writers]
        table(["writer", "effective rank", "for 90 %"], rows, right=(1, 2))
    write_report(report, arguments)
    return 0
