"""Options that several commands share."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from trtllm_ext.cli.ranks import add_rank_options
from trtllm_ext.errors import InputError

if TYPE_CHECKING:
    from trtllm_ext.parallel import Communicator
    from trtllm_ext.runtime import Session


def add_session_options(parser: argparse.ArgumentParser) -> None:
    """--engine_dir, --rank, --load_mode, --nproc and --no_self_test, for commands that run an engine."""
    parser.add_argument("--engine_dir", required=True, metavar="DIR", help="what `trtllm-ext build` wrote")
    parser.add_argument(
        "--rank",
        type=int,
        metavar="N",
        help="whose engine to load (default: 0, of several ranks each process its own)",
    )
    parser.add_argument(
        "--load_mode",
        choices=("prepack", "mapped"),
        default="prepack",
        help="prepack: fastest to run (default); mapped: loads at once, weights stay in the file",
    )
    parser.add_argument(
        "--gpu_weights_percent",
        type=float,
        default=1.0,
        metavar="PART",
        help="of an engine built with --weight_streaming: the part of its weights in the device's memory, 0 to 1",
    )
    add_rank_options(parser)


def open_session(arguments: argparse.Namespace, world: "Communicator | None") -> "Session":
    """The session that these options ask for; raises what `Session.from_engine_dir` raises."""
    from trtllm_ext.runtime import Session

    return Session.from_engine_dir(
        arguments.engine_dir,
        arguments.rank,
        arguments.load_mode,
        world,
        not arguments.no_self_test,
        arguments.gpu_weights_percent,
    )


def check_input(path: str, expected: str) -> None:
    """Raise InputError, naming what was `expected`, for a path that does not exist or is a directory."""
    file = Path(path)
    if not file.exists():
        raise InputError(f"{path} does not exist; expected {expected}.")
    if file.is_dir():
        raise InputError(f"{path} is a directory; expected {expected}.")
