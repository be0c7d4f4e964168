"""Feed-forward neurons by the cosine of what they read and what they write: those that erase and those that amplify.

A neuron reads the stream along a row of fc (in gated forms of gate too) and writes along a column of proj. Opposite
directions take out of the stream what is read, equal ones make more of it (Elhage et al. 2021, "A Mathematical
Framework for Transformer Circuits", on memory management; Gurnee et al. 2024, arXiv 2401.12181, on such cosines).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from trtllm_ext.analysis.neurons.random_directions import random_cosine_std, random_share_beyond
from trtllm_ext.analysis.stream_map.stream_map import Part, Reader, StreamMap, Writer
from trtllm_ext.checkpoint import NormContract
from trtllm_ext.errors import CheckpointError

Array = npt.NDArray[np.float64]
# Rows of a matrix that are widened to float64 at a time.
_PIECE_BYTES = 32 << 20
SIGMAS = 5.0


@dataclass(frozen=True)
class NeuronUnit:
    """The neurons of one feed-forward, or of one expert. name: as `neuron_activity.Unit` has it.

    readers: 'fc', and 'gate' in gated forms, where fc goes through the activation and gate is a factor beside it.
    """

    part: str
    layer: int
    name: str
    readers: dict[str, Reader]
    writer: Writer

    @property
    def label(self) -> str:
        """'mlp', 'mlp[3]', 'mlp.shared_expert'."""
        return f"mlp.{self.name.rstrip('.')}" if self.name.endswith(".") else f"mlp{self.name}"

    @property
    def judged_by(self) -> str:
        """The reader that neurons are listed by: the one that what is written is linear in, where there is one."""
        return "gate" if "gate" in self.readers else "fc"


@dataclass(frozen=True)
class UnitCosines:
    """Cosines of a unit's neurons, (neurons,): NaN where a direction is zero.

    read: of each reader's direction with the write direction. between: of fc's and gate's, None in forms without gate.
    read_norms: of each reader's directions; write_norms. size: the dimensions that the directions lie in.
    """

    unit: NeuronUnit
    read: dict[str, Array]
    read_norms: dict[str, Array]
    write_norms: Array
    between: Array | None
    size: int

    @property
    def judged(self) -> Array:
        return self.read[self.unit.judged_by]


@dataclass(frozen=True)
class Summary:
    """Of one unit's cosines. below, above: how many lie beyond 5 standard deviations of random directions' cosine.

    expected_beyond: how many of as many random directions would, with either sign. dead: neurons without a direction.
    """

    count: int
    dead: int
    mean: float
    std: float
    least: float
    most: float
    below: int
    above: int
    random_std: float
    expected_beyond: float


@dataclass(frozen=True)
class Neuron:
    """One neuron in a list. cosines: of each reader's direction with what it writes."""

    unit: NeuronUnit = field(repr=False)
    index: int
    cosine: float
    cosines: dict[str, float]

    @property
    def name(self) -> str:
        return f"{self.unit.layer}.{self.unit.label}.{self.index}"


def neuron_units(stream_map: StreamMap) -> list[NeuronUnit]:
    """The neurons of every feed-forward, in order.

    Raises CheckpointError naming a part that does not read or write the stream by one linear map, and for a model
    without feed-forward.
    """
    units = [unit for part in stream_map.parts if part.kind == "mlp" for unit in _units_of(part)]
    if not units:
        raise CheckpointError(
            f"{stream_map.source} has no feed-forward sublayer with fc and proj; its parts are "
            f"{', '.join(part.name for part in stream_map.parts[:6])}. Give a model that has one."
        )
    return units


def _units_of(part: Part) -> Iterator[NeuronUnit]:
    if part.obstacle is not None:
        raise CheckpointError(
            f"{part.name} has no read and write direction to compare: {part.obstacle}. Give a model whose sublayers "
            "read and write one stream."
        )
    readers = {reader.role: reader for reader in part.readers}
    for writer in part.writers:
        found = re.fullmatch(r"(.*?)proj(\[\d+\])?", writer.role)
        if found is None:
            continue
        before, behind = found[1], found[2] or ""
        own = {name: readers.get(f"{before}{name}{behind}") for name in ("fc", "gate")}
        kept = {name: reader for name, reader in own.items() if reader is not None}
        if "fc" not in kept:
            raise CheckpointError(
                f"{part.name} writes through {writer.matrix.name}, but has no matrix fc that reads for it."
            )
        yield NeuronUnit(part.name, part.layer or 0, before + behind, kept, writer)


def unit_cosines(unit: NeuronUnit, alive: Callable[[], None] = lambda: None) -> UnitCosines:
    """Cosines of all neurons of a unit, in float64, with norms' gains, centring, gates and scale folded in.

    alive: called with each piece of a matrix.
    Memory: two matrices as they are loaded, and pieces of them in float64.
    Raises CheckpointError for matrices that do not fit each other, and for NaN and infinity in them.
    """
    neurons, hidden = unit.readers["fc"].matrix.shape
    if unit.writer.matrix.shape != (hidden, neurons):
        raise CheckpointError(
            f"{unit.writer.matrix.name} has shape {unit.writer.matrix.shape}, expected {(hidden, neurons)} behind "
            f"{unit.readers['fc'].matrix.name}."
        )
    read_folds = {name: ReadFold(reader) for name, reader in unit.readers.items()}
    write_fold = WriteFold(unit.writer)
    read, norms, between = {}, {}, None
    write = unit.writer.matrix.load()
    write_norms = np.empty(neurons)
    for name, reader in unit.readers.items():
        matrix = reader.matrix.load()
        read[name], norms[name] = np.empty(neurons), np.empty(neurons)
        for rows in _pieces(neurons, hidden):
            alive()
            one, other = read_folds[name](matrix[rows]), write_fold(write[:, rows].T)
            norms[name][rows], write_norms[rows] = _norms(one), _norms(other)
            read[name][rows] = _cosines(one, other)
        del matrix
        _check_finite(reader.matrix.name, norms[name])
        _check_finite(unit.writer.matrix.name, write_norms)
    del write
    if "gate" in unit.readers:
        between = np.empty(neurons)
        first, second = (unit.readers[name].matrix.load() for name in ("fc", "gate"))
        for rows in _pieces(neurons, hidden):
            alive()
            between[rows] = _cosines(read_folds["fc"](first[rows]), read_folds["gate"](second[rows]))
    both = all(_centres(norm) for norm in (unit.readers["fc"].norm, unit.writer.norm))
    return UnitCosines(unit, read, norms, write_norms, between, hidden - both)


def summary(cosines: UnitCosines) -> Summary:
    """Of the cosines that neurons are judged by, beside those of random directions."""
    values = cosines.judged[np.isfinite(cosines.judged)]
    std = random_cosine_std(cosines.size)
    if not values.size:
        values = np.zeros(1)
    return Summary(
        count=len(cosines.judged),
        dead=int(np.isnan(cosines.judged).sum()),
        mean=float(values.mean()),
        std=float(values.std()),
        least=float(values.min()),
        most=float(values.max()),
        below=int((values < -SIGMAS * std).sum()),
        above=int((values > SIGMAS * std).sum()),
        random_std=std,
        expected_beyond=len(cosines.judged) * random_share_beyond(cosines.size, SIGMAS),
    )


def extremes(units: list[UnitCosines], most: int) -> tuple[list[Neuron], list[Neuron]]:
    """The `most` neurons with the least (erasing) and with the largest cosines (amplifying) of some units."""
    values = np.concatenate([unit.judged for unit in units])
    owners = np.concatenate([np.full(len(unit.judged), number) for number, unit in enumerate(units)])
    places = np.concatenate([np.arange(len(unit.judged)) for unit in units])
    order = np.argsort(values, kind="stable")
    order = order[np.isfinite(values[order])]

    def neuron(position: Any) -> Neuron:
        unit, index = units[owners[position]], int(places[position])
        cosines = {name: float(each[index]) for name, each in unit.read.items()}
        return Neuron(unit.unit, index, float(values[position]), cosines)

    return [neuron(each) for each in order[:most]], [neuron(each) for each in order[::-1][:most]]


class ReadFold:
    """Rows of a reading matrix as directions of the stream: the norm's gain folded in, LayerNorm's centring too.

    W (g (x - mean x) / sigma + b) reads x along g W less its mean, up to sigma, which is a token's own.
    """

    def __init__(self, reader: Reader) -> None:
        self._gain = None if reader.gain is None else reader.gain().astype(np.float64)
        self._centres = _centres(reader.norm)

    def __call__(self, rows: npt.NDArray[Any]) -> Array:
        """(neurons, hidden) in float64."""
        wide = rows.astype(np.float64)
        if self._gain is not None:
            wide *= self._gain
        if self._centres:
            wide -= wide.mean(1, keepdims=True)
        return wide


class WriteFold:
    """Columns of a writing matrix as what joins the stream: the norm behind it, its gain, gate and scale.

    A norm on the branch is linear once sigma, a token's own, is fixed: centring (LayerNorm), then the gain.
    """

    def __init__(self, writer: Writer) -> None:
        self._centres = _centres(writer.norm)
        factor: Any = writer.scale
        for each in (writer.gain, writer.gate):
            if each is not None:
                factor = factor * each().astype(np.float64)
        self._factor = factor

    def __call__(self, columns: npt.NDArray[Any]) -> Array:
        """columns: (neurons, hidden), a matrix's transposed; in float64."""
        wide = columns.astype(np.float64)
        if self._centres:
            wide -= wide.mean(1, keepdims=True)
        return np.asarray(wide * self._factor)


def _check_finite(name: str, norms: Array) -> None:
    """A NaN among the norms would pass for a neuron without a direction."""
    wrong = np.flatnonzero(~np.isfinite(norms))
    if wrong.size:
        raise CheckpointError(
            f"{name}: the weights of neuron {wrong[0]} ({wrong.size} of {norms.size} in all), or of the norm and gate "
            "beside them, hold NaN or infinity. Give intact weights."
        )


def _centres(norm: NormContract | None) -> bool:
    return norm is not None and norm.kind == "layer_norm"


def _pieces(neurons: int, hidden: int) -> Iterator[slice]:
    rows = max(1, _PIECE_BYTES // (8 * hidden))
    return (slice(begin, min(begin + rows, neurons)) for begin in range(0, neurons, rows))


def _norms(rows: Array) -> Array:
    return np.sqrt(np.einsum("ij,ij->i", rows, rows))


def _cosines(one: Array, other: Array) -> Array:
    """Row by row; NaN where a row is zero."""
    product = _norms(one) * _norms(other)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(product > 0, np.einsum("ij,ij->i", one, other) / product, np.nan)
