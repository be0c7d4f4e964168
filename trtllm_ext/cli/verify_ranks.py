"""`verify` of several ranks: beside the whole model on one."""

import argparse
import sys

from trtllm_ext.cli.build import SIZES
from trtllm_ext.cli.terminal import paragraph, progress, table


def run(arguments: argparse.Namespace) -> int:
    from trtllm_ext.builder import BuildConfig
    from trtllm_ext.errors import ConfigError
    from trtllm_ext.verify.ranks import verify

    names = (*SIZES, "sequence_parallel")
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    if given and arguments.engine_dir is not None:
        raise ConfigError(
            f"--{next(iter(given))} says how engines are built, and those of --engine_dir are. Leave one of them out."
        )
    if arguments.simulate_ranks is not None and arguments.simulate_ranks < 2:
        raise ConfigError(f"--simulate_ranks {arguments.simulate_ranks}: give 2 or more ranks.")
    if arguments.checkpoint_dir is None:
        raise ConfigError(
            f"several ranks are compared with the whole model, which is built from the checkpoint of "
            f"{arguments.engine_dir}. Give it: --checkpoint_dir DIR."
        )
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
    headings = ["inputs", "type", "worst output", "difference", "allowed", "same bits"]
    table(headings, rows, right=(3, 4))
    paragraph(
        "difference: the largest of any element, by the largest value of that output on one rank; same bits: on all "
        "ranks"
    )
    if all(each.dtype != "float32" for each in compared):
        paragraph(
            f"note: engines of {compared[0].dtype} are compared within their roundings, where a small mistake such as "
            f"a bias counted twice may hide. Without --engine_dir a float32 copy of the model is compared, too."
        )
    wrong = sum(not each.is_right for each in compared)
    if wrong:
        print(
            f"trtllm-ext: error: {wrong} of {len(compared)} runs of several ranks do not give what one rank gives.",
            file=sys.stderr,
        )
    return 1 if wrong else 0
