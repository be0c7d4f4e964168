"""Compare a model over several ranks with the same model on one: what `convert --tp_size` and `build` made of it.

All ranks run in this process, a thread each, so that a plan for 8 or 64 of them is tried on any machine. Their engines
are built in memory, or taken from --engine_dir; so is the whole model's, of the checkpoint's weights put together. What
is built in float16 or bfloat16 is then built and compared in float32 as well, where roundings hide nothing. Ends with
exit code 1 when an output is out of tolerance, or the ranks do not all give the same bits.
"""

import argparse
import sys

from trtllm_ext.cli.build import SIZES
from trtllm_ext.cli.terminal import progress, table


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    parser = commands.add_parser("verify", help="several ranks beside one, in one process")
    parser.add_argument(
        "--checkpoint_dir", required=True, metavar="DIR", help="what `trtllm-ext convert` wrote"
    )
    parser.add_argument(
        "--engine_dir", metavar="DIR", help="engines of several ranks (default: they are built in memory)"
    )
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


def run(arguments: argparse.Namespace) -> int:
    from trtllm_ext.builder import BuildConfig
    from trtllm_ext.verify.ranks import verify
    from trtllm_ext.errors import ConfigError

    names = (*SIZES, "sequence_parallel")
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    if given and arguments.engine_dir is not None:
        raise ConfigError(
            f"--{next(iter(given))} says how engines are built, and those of --engine_dir are. Leave one of them out."
        )
    if arguments.simulate_ranks is not None and arguments.simulate_ranks < 2:
        raise ConfigError(f"--simulate_ranks {arguments.simulate_ranks}: give 2 or more ranks.")
    with progress("verify") as tell:
        compared = list(
            verify(
                arguments.checkpoint_dir,
                BuildConfig().updated(**given),
                engine_dir=arguments.engine_dir,
                num_ranks=arguments.simulate_ranks,
                allow_nan=arguments.allow_nan,
                progress=tell,
            )
        )
    rows = [
        [
            ", ".join(f"{name} {shape}" for name, shape in each.shapes.items()),
            each.dtype,
            each.output,
            f"{each.difference:.1e}",
            f"{each.tolerance:.0e}",
            "yes" if each.same_bits else "NO",
        ]
        for each in compared
    ]
    headings = ["inputs", "type", "worst output", "difference", "allowed", "same bits on all ranks"]
    table(headings, rows, right=(3, 4))
    print("difference: the largest of any element, by the largest value of that output on one rank")
    if all(each.dtype != "float32" for each in compared):
        print(
            f"note: engines of {compared[0].dtype} are compared within their roundings, where a small mistake such as "
            f"a bias counted twice\nmay hide. Without --engine_dir a float32 copy of the model is compared, too."
        )
    wrong = sum(not each.is_right for each in compared)
    if wrong:
        print(
            f"trtllm-ext: error: {wrong} of {len(compared)} runs of several ranks do not give what one rank gives.",
            file=sys.stderr,
        )
    return 1 if wrong else 0
