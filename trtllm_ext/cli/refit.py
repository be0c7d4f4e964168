"""Put a checkpoint's weights into engines that are built.

The engines were built with --use_refit, or with --strip_plan, which left their weights out. The checkpoint has the
config that they were built of; its weights may be others. What comes out is an engine directory, whole or not at all,
and can be refitted in its turn if --use_refit was set.
"""

import argparse
import time

from trtllm_ext.cli.terminal import human_bytes, progress


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    parser = commands.add_parser("refit", help="other weights for an engine directory")
    parser.add_argument("--engine_dir", required=True, metavar="DIR", help="what `trtllm-ext build` wrote")
    parser.add_argument("--checkpoint_dir", required=True, metavar="DIR", help="the weights to put in")
    parser.add_argument(
        "--output_dir",
        required=True,
        metavar="DIR",
        help="the engine directory to write; may be --engine_dir",
    )
    parser.add_argument("--allow_nan", action="store_true", help="accept NaN and infinity in weights")
    return parser


def run(arguments: argparse.Namespace) -> int:
    from trtllm_ext.builder import refit_engine_dir
    from trtllm_ext.runtime import EngineDir

    start = time.monotonic()
    with progress("refit") as tell:
        refit_engine_dir(
            arguments.engine_dir,
            arguments.checkpoint_dir,
            arguments.output_dir,
            allow_nan=arguments.allow_nan,
            progress=tell,
        )
    first = EngineDir.read(arguments.output_dir).envelope
    size = sum(
        EngineDir.read(arguments.output_dir, rank).envelope.engine_bytes for rank in range(first.world_size)
    )
    ranks = f", {first.world_size} ranks" if first.world_size > 1 else ""
    print(
        f"{arguments.output_dir}: {first.engine_kind} engine for {first.compute_capability}{ranks}, "
        f"{human_bytes(size)}, refitted in {time.monotonic() - start:.1f} s"
    )
    return 0
