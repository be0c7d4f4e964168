"""`verify` of one engine: its tensors beside their references; and how much room float16 leaves a model."""

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from trtllm_ext.cli.build import SIZES
from trtllm_ext.cli.terminal import progress
from trtllm_ext.cli.verify_tables import print_headroom, print_report

if TYPE_CHECKING:
    from trtllm_ext.verify import Headroom, Report

_OF_RANKS = (*SIZES, "sequence_parallel", "simulate_ranks")


def for_ranks(arguments: argparse.Namespace) -> list[str]:
    """Names of what was given that is for several ranks."""
    return [name for name in _OF_RANKS if getattr(arguments, name) is not None]


def is_asked(arguments: argparse.Namespace) -> bool:
    """Whether the arguments are of one engine, and not of several ranks."""
    if arguments.headroom:
        return True
    if arguments.engine_dir is None or for_ranks(arguments):
        return False
    from trtllm_ext.runtime import EngineDir

    return EngineDir.read(arguments.engine_dir, 0).envelope.world_size == 1


def run(arguments: argparse.Namespace) -> int:
    from trtllm_ext.cli.npz import check_output, read_npz
    from trtllm_ext.errors import ConfigError

    if arguments.headroom and arguments.checkpoint_dir is None:
        raise ConfigError("--headroom is computed from a checkpoint's weights. Give --checkpoint_dir DIR.")
    if of_ranks := for_ranks(arguments):
        raise ConfigError(
            f"--{of_ranks[0]} is for several ranks, and --headroom for the whole model. Leave one of them out."
        )
    if arguments.json is not None:
        check_output(arguments.json, arguments.input)
    inputs = None if arguments.input is None else read_npz(arguments.input)
    found: dict[str, Any] = {}
    is_right = True
    if arguments.engine_dir is not None:
        report = _verified(arguments, inputs)
        print_report(report)
        found, is_right = report.to_dict(), report.is_right
    if arguments.headroom:
        room = _headroom(arguments, inputs)
        print_headroom(room)
        found["headroom"] = room.to_dict()
    if arguments.json is not None:
        _write(arguments.json, found)
    if not is_right:
        print(f"trtllm-ext: error: {_in_short(arguments, report)}", file=sys.stderr)
    return 0 if is_right else 1


def _in_short(arguments: argparse.Namespace, report: "Report") -> str:
    if report.first_wrong is None and report.network is None:
        return f"{arguments.engine_dir} was not built from {arguments.checkpoint_dir} as it is now."
    return f"{arguments.engine_dir} does not compute what it should."


def _verified(arguments: argparse.Namespace, inputs: Any) -> "Report":
    from trtllm_ext.verify import verify_engine

    with progress("verify") as tell:
        return verify_engine(
            arguments.engine_dir,
            arguments.checkpoint_dir,
            inputs=inputs,
            bisect=arguments.bisect,
            allow_nan=arguments.allow_nan,
            progress=tell,
        )


def _headroom(arguments: argparse.Namespace, inputs: Any) -> "Headroom":
    from trtllm_ext.verify import headroom

    with progress("verify") as tell:
        tell("computing the largest numbers", 0)
        return headroom(arguments.checkpoint_dir, inputs=inputs, allow_nan=arguments.allow_nan)


def _write(path: str, found: dict[str, Any]) -> None:
    from trtllm_ext.errors import InputError
    from trtllm_ext.runtime.atomic import replaced_file

    with replaced_file(path, error=InputError) as temporary:
        temporary.write_text(json.dumps(found, indent=2, allow_nan=False) + "\n", encoding="utf-8")
