"""Show how strongly later readers of the stream line up with earlier writers: the virtual weights between sublayers.

For every pair of a matrix that writes the residual stream and a later one that reads it, the norms of their product and
the composition score beside what a random turn would give. Nothing is run: weights alone are read, of a checkpoint
directory or of a Hugging Face folder, where attention, embeddings and head count too.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from trtllm_ext.cli.stream.options import check_output, new_report, write_report
from trtllm_ext.cli.terminal import human_bytes, paragraph, table
from trtllm_ext.errors import ConfigError

if TYPE_CHECKING:
    from trtllm_ext.analysis.stream_map import StreamMap

# With more pairs, directions and samples would be nothing that one looks at.
MOST_DETAILED_PAIRS = 64


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    parser = commands.add_parser("weights", help="virtual weights between writers and later readers")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint_dir", metavar="DIR", help="what `trtllm-ext convert` wrote")
    source.add_argument(
        "--model_dir", metavar="DIR", help="a Hugging Face folder that `trtllm-ext convert` reads"
    )
    parser.add_argument(
        "--stack", metavar="NAME", help="of a model that has two: encoder or decoder, text or vision"
    )
    parser.add_argument(
        "--pairs",
        nargs="+",
        default=[],
        metavar="WRITER:READER",
        help="these pairs alone, by name; * and ? stand for anything, as in '*.mlp.proj:*.mlp.fc' (default: all)",
    )
    parser.add_argument(
        "--directions", type=int, default=0, metavar="N", help="leading singular directions of each pair"
    )
    parser.add_argument(
        "--samples",
        type=int,
        default=0,
        metavar="N",
        help="random turns of each reader, beside what is computed of them",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of --samples (default: 0)")
    parser.add_argument(
        "--estimate", action="store_true", help="say how long it will take and in how much memory, and stop"
    )
    parser.add_argument(
        "--output_dir",
        metavar="DIR",
        help="where the report goes: new, empty, or an earlier report (not with --estimate)",
    )
    return parser


def run(arguments: argparse.Namespace) -> int:
    from trtllm_ext.analysis.stream_map import read_stream_map

    if arguments.output_dir is None and not arguments.estimate:
        raise ConfigError("--output_dir is needed: where the report goes; or --estimate.")
    for name in ("directions", "samples", "seed"):
        if getattr(arguments, name) < 0:
            raise ConfigError(f"--{name} {getattr(arguments, name)} must be at least 0.")
    if arguments.output_dir is not None:
        check_output(arguments.output_dir)
    found = read_stream_map(Path(arguments.checkpoint_dir or arguments.model_dir), stack=arguments.stack)
    return _estimate(arguments, found) if arguments.estimate else _report(arguments, found)


def _estimate(arguments: argparse.Namespace, found: "StreamMap") -> int:
    from trtllm_ext.analysis.virtual_weights.cost import estimate
    from trtllm_ext.cli.terminal import steps

    with steps("estimate") as tell:
        cost = estimate(found, pairs=arguments.pairs, progress=tell)
    paragraph(
        f"{cost.pairs} pairs: about {_time(cost.seconds)}, at most {human_bytes(cost.memory_bytes)} of memory and "
        f"{human_bytes(cost.disk_bytes)} in the folder for temporary files (TMPDIR)."
    )
    table(
        ("part", "time", "of"),
        [
            (
                "Gram matrices",
                _time(cost.gram_seconds),
                f"{cost.flop:.3g} operations at {cost.gigaflops:.3g} GFLOP/s",
            ),
            (
                "reading weights",
                _time(cost.read_seconds),
                f"{human_bytes(cost.read_bytes)} as float32 at {cost.read_gigabytes:.3g} GB/s",
            ),
            ("pairs", _time(cost.pair_seconds), f"{cost.pairs}, each of {cost.steps:.0f} steps"),
        ],
    )
    return 0


def _report(arguments: argparse.Namespace, found: "StreamMap") -> int:
    from trtllm_ext.analysis.virtual_weights.showing import show_virtual_weights, strongest
    from trtllm_ext.analysis.virtual_weights.virtual_weights import Choice, plan_pairs, virtual_weights
    from trtllm_ext.cli.terminal import steps

    plan = plan_pairs(found, Choice(tuple(arguments.pairs)))
    if (arguments.directions or arguments.samples) and plan.count > MOST_DETAILED_PAIRS:
        raise ConfigError(
            f"--directions and --samples are for at most {MOST_DETAILED_PAIRS} pairs; these are {plan.count}. Choose "
            "some with --pairs."
        )
    with steps("virtual weights") as tell:
        result = virtual_weights(
            found,
            pairs=arguments.pairs,
            directions=arguments.directions,
            samples=arguments.samples,
            seed=arguments.seed,
            progress=tell,
        )
    facts = {
        "model": found.architecture,
        "hidden size": f"{found.hidden_size}",
        "layers": f"{found.num_layers}",
        "pairs": f"{plan.count}",
        "not in the map": "; ".join(found.missing) or "nothing",
    }
    report = new_report(arguments, "Virtual weights", facts)
    show_virtual_weights(report, result, samples=arguments.samples, seed=arguments.seed)
    write_report(report, arguments)
    rows = [
        (writer, reader, f"{score:.3f}", f"{ratio:.2f}", f"{spectral:.4g}")
        for writer, reader, score, ratio, _, _, spectral in strongest(result, 10)
    ]
    table(("writer", "reader", "score", "times random", "spectral norm"), rows, right=(2, 3, 4))
    return 0


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"
