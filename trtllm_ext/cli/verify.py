"""Compare an engine with what its checkpoint means, and find the first layer that differs.

With --engine_dir, of one rank: the engine is run beside float64 references, the oracle on its network and the
contract's formulas on its weights, and every tensor that it exposes is compared, sublayer by sublayer. Engines with
taps can be looked into; --bisect builds one anew with taps, in memory, and finds the first wrong layer. Without
--checkpoint_dir the weights are those that the engine holds. --headroom tells how near to float16's largest number the
model comes.

Without --engine_dir, or with one of several ranks: all ranks run in this process, a thread each, and are compared with
the whole model, so that a plan for 8 or 64 of them is tried on any machine. Their engines are built in memory, or taken
from --engine_dir; so is the whole model's, of the checkpoint's weights put together. What is built in float16 or
bfloat16 is then built and compared in float32 as well, where roundings hide nothing.

Ends with exit code 1 when something is out of tolerance, or the ranks do not all give the same bits.
"""

import argparse

from trtllm_ext.cli.build import SIZES

_OF_ONE_ENGINE = ("input", "bisect", "json")


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    parser = commands.add_parser(
        "verify", help="an engine beside its references, layer by layer; several ranks beside one"
    )
    parser.add_argument("--checkpoint_dir", metavar="DIR", help="what `trtllm-ext convert` wrote")
    parser.add_argument(
        "--engine_dir",
        metavar="DIR",
        help="what `trtllm-ext build` wrote (default: engines of several ranks are built in memory)",
    )
    _add_engine_options(parser)
    parser.add_argument(
        "--simulate_ranks",
        type=int,
        nargs="?",
        metavar="N",
        help="number of ranks (default: the checkpoint's own); its weights are dealt out again for another",
    )
    for name, text in SIZES.items():
        parser.add_argument(f"--{name}", type=int, metavar="N", help=text)
    parser.add_argument(
        "--sequence_parallel",
        action="store_true",
        default=None,
        help="as for build: ranks share out the tokens",
    )
    parser.add_argument("--allow_nan", action="store_true", help="accept NaN and infinity in weights")
    return parser


def _add_engine_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--input", metavar="FILE", help=".npz file with the inputs by name, as for run (default: seeded ones)"
    )
    parser.add_argument(
        "--bisect",
        action="store_true",
        help="build the engine anew with taps, in memory, to find the first wrong layer",
    )
    parser.add_argument(
        "--headroom",
        action="store_true",
        help="how near to float16's largest number each residual add and norm comes; needs no engine",
    )
    parser.add_argument("--json", metavar="FILE", help="write the findings to a JSON file as well")


def run(arguments: argparse.Namespace) -> int:
    from trtllm_ext.cli import verify_engine, verify_ranks
    from trtllm_ext.errors import ConfigError

    if arguments.checkpoint_dir is None and arguments.engine_dir is None:
        raise ConfigError(
            "give --engine_dir DIR to look into an engine, --checkpoint_dir DIR to compare several ranks with one, or "
            "both to compare an engine with its checkpoint."
        )
    if arguments.bisect and arguments.engine_dir is None:
        raise ConfigError("--bisect looks into an engine, built for one rank. Give it: --engine_dir DIR.")
    if verify_engine.is_asked(arguments):
        return verify_engine.run(arguments)
    for name in _OF_ONE_ENGINE:
        if getattr(arguments, name):
            if of_ranks := verify_engine.for_ranks(arguments):
                raise ConfigError(
                    f"--{name} is for an engine of one rank, and --{of_ranks[0]} for several. Leave one of them out."
                )
            raise ConfigError(
                f"--{name} is for an engine of one rank, with --engine_dir. Several ranks are compared with the whole "
                f"model as they are."
            )
    return verify_ranks.run(arguments)
