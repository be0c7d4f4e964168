"""Convert a Hugging Face model folder to a checkpoint directory.

A model of the BERT family becomes an encoder; of any other each layer's feed-forward sublayer is taken, with its norms.
With --tp_size the weights are split over that many ranks.
Every weight of the source is used or accounted for; a form of the model that is not known exactly is refused.
"""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from trtllm_ext.cli.terminal import human_bytes
from trtllm_ext.errors import ConfigError

if TYPE_CHECKING:
    from trtllm_ext.checkpoint import ConversionReport

NAMES_SHOWN = 3


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    parser = commands.add_parser("convert", help="a Hugging Face model folder to a checkpoint directory")
    parser.add_argument(
        "--model_dir", required=True, metavar="DIR", help="folder with config.json and weights"
    )
    parser.add_argument(
        "--output_dir", required=True, metavar="DIR", help="the checkpoint directory to write"
    )
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "float16", "bfloat16"),
        default="auto",
        help="type of the weights and of the computation (default: auto, the type of the source's weights)",
    )
    parser.add_argument("--allow_nan", action="store_true", help="accept NaN and infinity in weights")
    parser.add_argument(
        "--tp_size",
        type=int,
        default=1,
        metavar="N",
        help="tensor-parallel ranks to split the weights over, a file each (default: 1)",
    )
    # Of TensorRT-LLM's converters; left out of --help, since there is nothing to gain by them.
    for name in ("pp_size", "cp_size", "workers"):
        parser.add_argument(f"--{name}", type=int, default=1, help=argparse.SUPPRESS)
    stack = parser.add_argument_group(
        "stacks of feed-forward sublayers (every architecture but the BERT family)"
    )
    stack.add_argument(
        "--layers",
        metavar="FIRST:END",
        help="those to convert: 3:7 for 3 to 6, one number, or --layers=-2: for the last two (default: all)",
    )
    stack.add_argument(
        "--stack",
        metavar="NAME",
        help="of a model that has two: encoder or decoder, text or vision (default: the first)",
    )
    stack.add_argument(
        "--attention_input",
        action="store_true",
        help="take what each layer's attention adds to the residual stream as a second input, attention_output",
    )
    stack.add_argument(
        "--stream_dtype",
        choices=("model", "float32"),
        default="model",
        help="type of the residual stream (default: model, the same as --dtype)",
    )
    return parser


def run(arguments: argparse.Namespace) -> int:
    from trtllm_ext.checkpoint import convert

    _refuse_other_parallelism(arguments)
    report = convert(
        arguments.model_dir,
        arguments.output_dir,
        dtype=arguments.dtype,
        layers=arguments.layers,
        stack=arguments.stack,
        attention_input=arguments.attention_input,
        stream_dtype=arguments.stream_dtype,
        allow_nan=arguments.allow_nan,
        tp_size=arguments.tp_size,
    )
    config = report.config
    print(
        f"{report.output_dir}: {config.source or report.source_architecture} as {config.architecture}, "
        f"{config.num_hidden_layers} layers, hidden {config.hidden_size}, {config.dtype}; "
        f"{len(report.converted)} weights, {human_bytes(report.num_bytes)}{_by_rank(report)}"
    )
    for reason, names in report.dropped_by_reason().items():
        print(f"  not used: {_some(names)} ({reason})")
    return 0


def _refuse_other_parallelism(arguments: argparse.Namespace) -> None:
    from trtllm_ext.checkpoint.config import OTHER_PARALLELISM

    for name in ("pp_size", "cp_size"):
        size = getattr(arguments, name)
        if size != 1:
            raise ConfigError(
                f"--{name} {size} is refused: {OTHER_PARALLELISM[name]}. Leave it out; --tp_size splits every layer "
                "over ranks."
            )


def _by_rank(report: "ConversionReport") -> str:
    ranks = report.config.mapping.world_size
    return f": {ranks} ranks of {human_bytes(report.bytes_per_rank)}" if ranks > 1 else ""


def _some(names: Sequence[str]) -> str:
    """The first three, and how many there are where there are more."""
    if len(names) <= NAMES_SHOWN:
        return ", ".join(names)
    return f"{len(names)} weights: {', '.join(names[:NAMES_SHOWN])}, ..."
