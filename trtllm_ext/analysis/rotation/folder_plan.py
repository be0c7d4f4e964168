"""What becomes of every weight of a Hugging Face folder when its stream is rotated, from the map of its stream.

Norms stay, with a weight of ones (zeros where the model adds one to it); a LayerNorm's bias moves into the biases
behind it where all of these are there, else it is rotated and stays. A tied head becomes a weight of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from trtllm_ext.analysis.rotation.folding import Wide, is_uniform, shifted
from trtllm_ext.analysis.stream_map.stored import Vector
from trtllm_ext.analysis.stream_map.stream_map import Part, Reader, StreamMap, Writer
from trtllm_ext.checkpoint.convert.pieces import Piece
from trtllm_ext.errors import CheckpointError, ConfigError

HEAD = "lm_head.weight"
_FLOATS = ("float64", "float32", "float16", "bfloat16")
_SAFE_TO_LEAVE = "a norm of what q or k gives"


@dataclass(frozen=True)
class Rows:
    """A part of a weight whose vectors of the stream become (v * gain) Q. axis: the stream's, in the piece's view."""

    piece: Piece
    axis: int
    gain: Wide | None = None


@dataclass
class FolderPlan:
    """Of each weight by its name, what becomes of it; a weight that is nowhere here is copied.

    rows: parts that are multiplied by the rotation. values: what the weight becomes. moved: what is added to it.
    shifts: what is rotated, and takes its place.
    tied: the table that a head of its own, HEAD, is made of as well; None where there is none to be made.
    keep_mean: whether the rotation must keep the mean direction.
    final_gain: of a final norm that nothing reads behind.
    """

    rows: dict[str, list[Rows]] = field(default_factory=dict)
    values: dict[str, Wide] = field(default_factory=dict)
    moved: dict[str, Wide] = field(default_factory=dict)
    shifts: dict[str, Wide] = field(default_factory=dict)
    tied: str | None = None
    has_head: bool = False
    keep_mean: bool = False
    final_gain: Wide | None = None


def plan_folder_rotation(found: StreamMap) -> FolderPlan:
    """What becomes of the folder's weights. Reads norms' values and matrices behind a LayerNorm's bias.

    Raises ConfigError for a model that is another one in a rotated basis, or that is not wholly described, with the
    reasons, and CheckpointError for weights that are stored in a code and norms that hold NaN or infinity.
    """
    problems = list(dict.fromkeys(_problems(found)))
    if problems:
        raise ConfigError(
            f"the residual stream of {found.source} ({found.architecture}) cannot be rotated: {'; '.join(problems)}."
        )
    plan = FolderPlan(keep_mean="layer_norm" in set(_norm_kinds(found)))
    norms: dict[str, list[Reader]] = {}
    for _, writer in found.writers():
        _write(plan, found, writer)
    for part, reader in found.readers():
        _check_tied(plan, part, reader)
    for part, reader in found.readers():
        _read(plan, found, reader)
        plan.has_head |= part.kind == "head"
        if reader.gain is not None:
            norms.setdefault(reader.gain.pieces[0].name, []).append(reader)
    for readers in norms.values():
        _fold(plan, readers)
    for part in found.parts:
        if part.norm is not None:
            _norm_of_the_stream(plan, part)
    return plan


def _norm_kinds(found: StreamMap) -> Iterator[str]:
    for part in found.parts:
        if part.norm is not None:
            yield part.norm.contract.kind
        both: tuple[Reader | Writer, ...] = (*part.readers, *part.writers)
        yield from (each.norm.kind for each in both if each.norm is not None)


def _problems(found: StreamMap) -> Iterator[str]:
    yield from found.missing
    reasons = {reason for reason in found.left_out.values() if not reason.startswith(_SAFE_TO_LEAVE)}
    for reason in sorted(reasons):
        names = [name for name, each in found.left_out.items() if each == reason]
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        yield f"weights of the stream's width that are in no part ({names[0]}{more}): {reason}"
    for part in found.parts:
        if part.obstacle is not None:
            yield f"{part.name}: {part.obstacle}"
        if part.norm is not None and part.kind != "final_norm" and not _even(part.norm.gain):
            yield (
                f"the norm of the stream behind {_anywhere(part)} multiplies each channel by a weight of its own, and "
                "no matrix follows that could take it"
            )
        for writer in part.writers:
            if not _even(writer.gain):
                yield (
                    f"the norm of what {_anywhere(part)} adds to the stream multiplies each channel by a weight of its "
                    "own, and no matrix follows that could take it"
                )
            if writer.gate is not None and writer.gate.size > 1 and not _even(writer.gate):
                yield f"{_anywhere(part)} multiplies each channel of what it adds by a weight of its own (LayerScale)"


def _anywhere(part: Part) -> str:
    return part.kind if part.layer is not None else part.name.removeprefix("transformer.")


def _even(gain: Vector | None) -> bool:
    return gain is None or is_uniform(gain())


# --- one weight -----------------------------------------------------------------------------------------------


def _write(plan: FolderPlan, found: StreamMap, writer: Writer) -> None:
    for piece in writer.matrix.pieces:
        _check_stored(found, piece)
        plan.rows.setdefault(piece.name, []).append(Rows(piece, _written_axis(piece, found.hidden_size)))
    for vector in (writer.bias, writer.shift):
        if vector is not None:
            _rotate_vector(plan, vector)


def _written_axis(piece: Piece, hidden: int) -> int:
    """Where the stream is in a writer's view: (hidden, in), an expert's (1, hidden, in), patches' (hidden, in, ...)."""
    if len(piece.shape) == 1:
        return 0
    return -2 if len(piece.shape) < 4 and piece.shape[-2] == hidden else 0


def _rotate_vector(plan: FolderPlan, vector: Vector) -> None:
    """A vector of the stream, or one expert's of several; once, however many share it."""
    for piece in vector.pieces:
        known = plan.rows.setdefault(piece.name, [])
        if all(rows.piece != piece for rows in known):
            known.append(Rows(piece, -1))


def _check_tied(plan: FolderPlan, part: Part, reader: Reader) -> None:
    """Note a head that reads with a table's weight; raise ConfigError for another reader that does."""
    names = {piece.name for piece in reader.matrix.pieces}
    if not names & plan.rows.keys():
        return
    if reader.role != "head" or len(names) != 1 or f"{reader.matrix.name}.weight" != HEAD:
        raise ConfigError(
            f"{', '.join(sorted(names))} writes the stream and {part.name} reads it with the same weight; only a head "
            f"{HEAD} can be made a weight of its own."
        )
    (plan.tied,) = names


def _read(plan: FolderPlan, found: StreamMap, reader: Reader) -> None:
    gain = None if reader.gain is None else _finite(reader.gain)
    for piece in reader.matrix.pieces:
        _check_stored(found, piece)
        name = HEAD if plan.tied == piece.name else piece.name
        plan.rows.setdefault(name, []).append(Rows(piece, -1, gain))


def _fold(plan: FolderPlan, readers: list[Reader]) -> None:
    """A norm that is read through: its gain is in `_read`; here its weight becomes ones, and its bias goes its way."""
    gain, shift = readers[0].gain, readers[0].shift
    assert gain is not None
    _set(plan, gain, np.full(gain.size, 1.0 - gain.offset))
    if shift is None:
        return
    values = _finite(shift)
    if not values.any():
        return
    biases = [reader.bias for reader in readers if reader.bias is not None]
    if len(biases) < len(readers):
        _keep_shift(plan, shift, values, _finite(gain))
        return
    for reader, bias in zip(readers, biases, strict=True):
        _add_to(plan, bias, shifted(reader.matrix.load(), values))
    _set(plan, shift, np.zeros(shift.size))


def _keep_shift(plan: FolderPlan, shift: Vector, values: Wide, gain: Wide) -> None:
    """(n g + s) W^T = (n + s / g) (W diag(g))^T: the norm keeps s / g, rotated."""
    if (gain[values != 0] == 0).any():
        raise ConfigError(
            f"{shift.name} is not zero where its norm's weight is, and what reads behind it has no bias that could "
            "take it; the stream cannot be rotated."
        )
    divided = np.divide(values, gain, out=np.zeros_like(values), where=values != 0)
    plan.shifts[shift.pieces[0].name] = divided


def _norm_of_the_stream(plan: FolderPlan, part: Part) -> None:
    """One that stands on the stream itself; a final one may have readers, which have taken its weight."""
    assert part.norm is not None
    gain, shift = part.norm.gain, part.norm.shift
    is_folded = gain is not None and gain.pieces[0].name in plan.values
    if part.kind != "final_norm":
        if shift is not None:
            _rotate_vector(plan, shift)
    elif gain is not None and not is_folded:
        plan.final_gain = _finite(gain)
        _set(plan, gain, np.full(gain.size, 1.0 - gain.offset))
        if shift is not None:
            _keep_shift(plan, shift, _finite(shift), plan.final_gain)


def _finite(vector: Vector) -> Wide:
    """Values of a norm that are to be folded. Raises CheckpointError for NaN and infinity."""
    values = vector().astype(np.float64)
    if not np.isfinite(values).all():
        raise CheckpointError(
            f"{vector.name} holds NaN or infinity, which would be in all that reads behind it."
        )
    return values


def _set(plan: FolderPlan, vector: Vector, values: Wide) -> None:
    (piece,) = vector.pieces
    plan.values[piece.name] = values


def _add_to(plan: FolderPlan, bias: Vector, moved: Wide) -> None:
    """moved: what is added to a bias, which may lie in several parts of stored ones."""
    begin = 0
    for piece in bias.pieces:
        whole = plan.moved.setdefault(piece.name, np.zeros(piece.source_shape))
        view = piece.view(whole)
        view[...] += moved[begin : begin + view.size].reshape(view.shape)
        begin += view.size


def _check_stored(found: StreamMap, piece: Piece) -> None:
    stored = found.weights.values(piece.name).dtype
    if stored.name not in _FLOATS:
        raise CheckpointError(f"{piece.name} is stored as {stored.name}: dequantise the model first.")
