"""What `verify` prints of one engine: the verdict first, then the numbers that it comes from."""

import posixpath
from itertools import groupby
from typing import TYPE_CHECKING

from trtllm_ext.cli.terminal import paragraph, table

if TYPE_CHECKING:
    from trtllm_ext.verify import Headroom, HeadroomRow, LayerRow, Report, Row


def print_report(report: "Report") -> None:
    shapes = ", ".join(f"{name} {shape}" for name, shape in report.shapes.items())
    paragraph(
        f"{'yes' if report.is_right else 'NO'}: {report.engine} ({report.dtype}), run on {shapes}", "  "
    )
    for finding in report.findings:
        paragraph(f"- {finding}", "  ")
    for note in report.notes:
        paragraph(f"note: {note}", "  ")
    print()
    _print_rows(report.rows)
    bisection = report.bisection
    if bisection is not None and (bisection.sublayer is not None or len(report.rows) < len(bisection.rows)):
        print("\nbuilt anew with taps:")
        _print_rows(bisection.rows)
    if bisection is not None and bisection.layers:
        _print_layers(bisection.layers)
    print()
    paragraph(
        "errors: the largest of any element, by the largest number of the reference; vs: of the whole run up to here; "
        "this step: given the engine's own tensors before it, which decides"
    )


def _print_rows(rows: "tuple[Row, ...]") -> None:
    lines = []
    for sublayer, group in groupby(rows, lambda row: row.sublayer):
        lines.append([sublayer])
        lines += [
            [
                f"  {row.point}",
                _number(row.oracle),
                _number(row.formulas),
                _number(row.alone),
                f"{row.tolerance:.0e}",
                "yes" if row.is_right else "NO",
            ]
            for row in group
        ]
    table(["point", "vs oracle", "vs formulas", "this step", "allowed", "ok"], lines, right=(1, 2, 3, 4))


def _print_layers(layers: "tuple[LayerRow, ...]") -> None:
    """Paths of layers begin with the model's class, which says nothing here, and with what they have in common."""
    from trtllm_ext.verify.between import below_root

    common = _common_path([each.layer for each in layers])
    below = f", below {below_root(common)}" if common else ""
    print(f"\nlayers of the first wrong sublayer, each given its own inputs{below}:")
    table(
        ["layer", "kind", "vs oracle", "this layer", "ok"],
        [
            [
                each.layer.removeprefix(common).removeprefix("/"),
                each.kind,
                _number(each.error),
                _number(each.alone),
                "yes" if each.is_right else "NO",
            ]
            for each in layers
        ],
        right=(2, 3),
    )


def _common_path(names: list[str]) -> str:
    """The folders that all names begin with."""
    return posixpath.commonpath([name.rpartition("/")[0] for name in names])


def print_headroom(room: "Headroom") -> None:
    paragraph(f"{'yes' if room.is_safe else 'NO'}: {room.verdict}", "  ")
    print(f"\nroom below float16's 65504, of a {room.dtype} checkpoint in float64:")
    lines = []
    for where, group in groupby(room.rows, _layer_of):
        lines.append([where])
        lines += [
            [
                f"  {row.name.removeprefix(where).removeprefix('.')}",
                f"{row.largest:.4g}",
                f"{row.bits:.1f}",
                "" if row.mean_square is None else f"{row.mean_square:.4g}",
                "" if row.square_bits is None else f"{row.square_bits:.1f}",
                row.state,
            ]
            for row in group
        ]
    header = ["where", "largest", "bits", "mean square", "bits of square", "float16"]
    table(header, lines, right=(1, 2, 3, 4))
    print()
    paragraph(
        "bits: how often numbers may double; after: the stream after the sublayer's add; of a norm: what it is given, "
        "its largest mean of squares, and the room of its largest square"
    )


def _layer_of(row: "HeadroomRow") -> str:
    """`transformer.layers.0` of `transformer.layers.0.mlp.after`; `transformer` of `transformer.ln_f`."""
    parts = row.name.split(".")
    return ".".join(parts[:3] if parts[1:2] == ["layers"] else parts[:-1])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"
