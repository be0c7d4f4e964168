"""`verify` of one engine: its tensors beside their references; and how much room float16 leaves a model."""

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from trtllm_ext.cli.build import SIZES
from trtllm_ext.cli.terminal import progress, table

if TYPE_CHECKING:
    from trtllm_ext.verify import Headroom, LayerRow, Report, Row

_OF_RANKS = (*SIZES, "sequence_parallel", "simulate_ranks")


def is_asked(arguments: argparse.Namespace) -> bool:
    """Whether the arguments are of one engine, and not of several ranks."""
    if arguments.headroom:
        return True
    if arguments.engine_dir is None or any(getattr(arguments, name) is not None for name in _OF_RANKS):
        return False
    from trtllm_ext.runtime import EngineDir

    return EngineDir.read(arguments.engine_dir, 0).envelope.world_size == 1


def run(arguments: argparse.Namespace) -> int:
    from trtllm_ext.cli.npz import check_output, read_npz
    from trtllm_ext.errors import ConfigError

    if arguments.headroom and arguments.checkpoint_dir is None:
        raise ConfigError("--headroom is computed from a checkpoint's weights. Give --checkpoint_dir DIR.")
    of_ranks = [name for name in _OF_RANKS if getattr(arguments, name) is not None]
    if of_ranks:
        raise ConfigError(
            f"--{of_ranks[0]} is for several ranks, and --headroom for the whole model. Leave one of them out."
        )
    if arguments.bisect and arguments.engine_dir is None:
        raise ConfigError("--bisect looks into an engine. Give --engine_dir DIR.")
    if arguments.json is not None:
        check_output(arguments.json, arguments.input)
    inputs = None if arguments.input is None else read_npz(arguments.input)
    found: dict[str, Any] = {}
    is_right = True
    if arguments.engine_dir is not None:
        report = _verified(arguments, inputs)
        _print_report(report)
        found, is_right = report.to_dict(), report.is_right
    if arguments.headroom:
        room = _headroom(arguments, inputs)
        _print_headroom(room)
        found["headroom"] = room.to_dict()
    if arguments.json is not None:
        _write(arguments.json, found)
    if not is_right:
        print(f"trtllm-ext: error: {arguments.engine_dir} does not compute what it should.", file=sys.stderr)
    return 0 if is_right else 1


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


def _print_report(report: "Report") -> None:
    shapes = ", ".join(f"{name} {shape}" for name, shape in report.shapes.items())
    print(f"{report.engine}: {report.dtype}, run on {shapes}")
    _print_rows(report.rows)
    bisection = report.bisection
    if bisection is not None and (bisection.sublayer is not None or len(report.rows) < len(bisection.rows)):
        print("built anew with taps:")
        _print_rows(bisection.rows)
    if bisection is not None and bisection.layers:
        _print_layers(bisection.layers)
    print(
        "errors: the largest of any element, by the largest number of the reference; vs: of the whole run up to here;\n"
        "this step: given the engine's own tensors before it, which decides"
    )
    for note in report.notes:
        print(f"note: {note}")
    print(report.verdict)


def _print_rows(rows: "tuple[Row, ...]") -> None:
    table(
        ["sublayer", "point", "vs oracle", "vs formulas", "this step", "allowed", "ok"],
        [
            [
                row.sublayer,
                row.point,
                _number(row.oracle),
                _number(row.formulas),
                _number(row.alone),
                f"{row.tolerance:.0e}",
                "yes" if row.is_right else "NO",
            ]
            for row in rows
        ],
        right=(2, 3, 4, 5),
    )


def _print_layers(layers: "tuple[LayerRow, ...]") -> None:
    print("layers of the first wrong sublayer, each given its own inputs:")
    table(
        ["layer", "kind", "vs oracle", "this layer", "ok"],
        [
            [
                each.layer,
                each.kind,
                _number(each.error),
                _number(each.alone),
                "yes" if each.is_right else "NO",
            ]
            for each in layers
        ],
        right=(2, 3),
    )


def _print_headroom(room: "Headroom") -> None:
    print(f"room below float16's 65504, of a {room.dtype} checkpoint in float64:")
    table(
        ["where", "what", "largest", "bits of room", "mean square", "bits of its square", "float16"],
        [
            [
                row.name,
                row.what,
                f"{row.largest:.4g}",
                f"{row.bits:.1f}",
                "" if row.mean_square is None else f"{row.mean_square:.4g}",
                "" if row.square_bits is None else f"{row.square_bits:.1f}",
                row.state,
            ]
            for row in room.rows
        ],
        right=(2, 3, 4, 5),
    )
    print(room.verdict)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def _write(path: str, found: dict[str, Any]) -> None:
    from trtllm_ext.errors import InputError
    from trtllm_ext.runtime.atomic import replaced_file

    with replaced_file(path, error=InputError) as temporary:
        temporary.write_text(json.dumps(found, indent=2, allow_nan=False) + "\n", encoding="utf-8")
