"""Virtual weights: how strongly what a later reader reads lines up with what an earlier writer writes.

The product R W of a reader and an earlier writer is how the one acts on the other past everything in between (Elhage et
al. 2021, A Mathematical Framework for Transformer Circuits, "Virtual Weights and the Residual Stream as a Communication
Channel"). R is the reader's matrix with its norm's gain folded in, and the subtraction of the mean where the norm has
one; W the writer's with the norm, gate and scale behind it; where the stream itself passes norms in between ('post'),
these stand between the two. What a norm divides by belongs to the token and is left out.

    composition score = ||R W||_F / (||R||_F ||W||_F)                                     (the same article)

Were R turned at random against W, the square of the score would be 1 / hidden in the mean, whatever the spectra are;
its variance follows from them (`composition.expected`).
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

import numpy as np

from trtllm_ext.analysis.progress import Progress, silent
from trtllm_ext.analysis.stream_map.stream_map import Part, StreamMap
from trtllm_ext.analysis.virtual_weights.blas_threads import one_blas_thread
from trtllm_ext.analysis.virtual_weights.composition import expected, inner, sampled_scores, trace
from trtllm_ext.analysis.virtual_weights.gram import Array, Unit, gram, readers_of, through_norm, writers_of
from trtllm_ext.analysis.virtual_weights.lanczos import largest
from trtllm_ext.errors import ConfigError
from trtllm_ext.suggest import did_you_mean


@dataclass(frozen=True)
class Directions:
    """A pair's leading singular directions.

    values: (count,). written, read: (count, hidden), of length 1: what W writes for each, and what R is most moved by.
    """

    values: Array
    written: Array
    read: Array


@dataclass
class VirtualWeights:
    """All pairs: arrays are (writers, readers), NaN where the reader is not behind the writer or was not asked for.

    frobenius, spectral: of R W. score: the composition score. deviations: how many standard deviations the square of
    the score lies above that of a reader turned at random.
    steps: products with each Gram matrix that the spectral norm took, 0 where there is none.
    unfinished: pairs whose spectral norm had not settled.
    """

    writers: tuple[str, ...]
    readers: tuple[str, ...]
    hidden_size: int
    frobenius: Array
    spectral: Array
    score: Array
    deviations: Array
    steps: Array
    directions: dict[tuple[str, str], Directions] = field(default_factory=dict)
    sampled: dict[tuple[str, str], Array] = field(default_factory=dict)
    unfinished: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def baseline(self) -> float:
        """The root of the mean square of the score of a reader turned at random."""
        return float(self.hidden_size**-0.5)


@dataclass(frozen=True)
class Choice:
    """Which pairs: patterns 'WRITER:READER' of names, with * and ?; none for all."""

    patterns: tuple[str, ...] = ()

    def __call__(self, writer: str, reader: str) -> bool:
        return not self.patterns or any(
            fnmatchcase(writer, first) and fnmatchcase(reader, second)
            for first, _, second in (pattern.partition(":") for pattern in self.patterns)
        )


def virtual_weights(
    found: StreamMap,
    *,
    pairs: Sequence[str] = (),
    directions: int = 0,
    samples: int = 0,
    seed: int = 0,
    progress: Progress | None = None,
) -> VirtualWeights:
    """Norms and scores of every pair, or of those that `pairs` (see Choice) names.

    directions: so many leading singular directions of each pair. samples: scores of so many random turns of the reader,
    drawn from `seed`, for each pair.
    Memory: a matrix, or a slice of a large one (gram.SLICE_BYTES), and the Gram matrices of the readers of one part and
    of a writer; those of the writers lie in a temporary folder. Time: see `estimate`.
    Raises ConfigError for a pattern that names no pair, and for parts that do not read or write by one linear map.
    """
    began = time.monotonic()
    tell = silent if progress is None else progress
    choice = Choice(tuple(pairs))
    plan = plan_pairs(found, choice)
    hidden = found.hidden_size
    result = plan.result()
    measure = Measure(result, directions, samples, seed)
    with tempfile.TemporaryDirectory(prefix="virtual_weights") as folder:
        files = [Path(folder) / f"{number}.npy" for number in range(len(plan.writers))]
        for number, unit in enumerate(plan.writers):
            np.save(
                files[number], gram(unit, hidden, partial(tell, "reading writers", number, len(plan.writers)))
            )
        done = 0
        for group in plan.groups():
            tick = partial(tell, "pairs", done, plan.count)
            grams = {number: gram(plan.readers[number], hidden, tick) for number in group}
            for index in reversed(range(plan.readers[group[0]].index)):
                part = found.parts[index]
                _before_norm(part, grams.values())
                for writer in plan.writing(index):
                    wanted = {number: grams[number] for number in group if plan.has(writer, number)}
                    if wanted:
                        tell("pairs", done, plan.count)
                        measure.one_writer(writer, wanted, np.load(files[writer]))
                        done += len(wanted)
                if part.residual is not None and part.residual.skip_scale != 1:
                    for total in grams.values():
                        total *= part.residual.skip_scale**2
        tell("pairs", plan.count, plan.count)
    result.seconds = time.monotonic() - began
    return result


@dataclass(frozen=True)
class Pairs:
    """Which writers and readers are paired, in the order in which that is done."""

    found: StreamMap
    writers: list[Unit]
    readers: list[Unit]
    choice: Choice

    def has(self, writer: int, reader: int) -> bool:
        first, second = self.writers[writer], self.readers[reader]
        return is_earlier(first, second) and self.choice(first.name, second.name)

    @property
    def count(self) -> int:
        return sum(self.has(i, j) for i in range(len(self.writers)) for j in range(len(self.readers)))

    def result(self) -> VirtualWeights:
        """With nothing in it yet."""
        shape = len(self.writers), len(self.readers)
        return VirtualWeights(
            writers=tuple(unit.name for unit in self.writers),
            readers=tuple(unit.name for unit in self.readers),
            hidden_size=self.found.hidden_size,
            frobenius=np.full(shape, np.nan),
            spectral=np.full(shape, np.nan),
            score=np.full(shape, np.nan),
            deviations=np.full(shape, np.nan),
            steps=np.zeros(shape, int),
        )

    def groups(self) -> Iterator[list[int]]:
        """Readers of one part together."""
        by_part: dict[int, list[int]] = {}
        for number, unit in enumerate(self.readers):
            by_part.setdefault(unit.index, []).append(number)
        yield from by_part.values()

    def writing(self, index: int) -> list[int]:
        """Writers of a part."""
        return [number for number, unit in enumerate(self.writers) if unit.index == index]


def plan_pairs(found: StreamMap, choice: Choice) -> Pairs:
    """The writers and readers that have a pair. Raises ConfigError as `virtual_weights` does."""
    writers, readers = writers_of(found), readers_of(found)
    _check_patterns(choice, writers, readers)
    every = Pairs(found, writers, readers, choice)
    first = [i for i in range(len(writers)) if any(every.has(i, j) for j in range(len(readers)))]
    second = [j for j in range(len(readers)) if any(every.has(i, j) for i in range(len(writers)))]
    if not first:
        raise ConfigError(
            f"{found.source} has no pair of a writer and a later reader"
            + (f" that {', '.join(choice.patterns)} names" if choice.patterns else "")
            + ": a single sublayer has none."
        )
    plan = Pairs(found, [writers[i] for i in first], [readers[j] for j in second], choice)
    for unit in (*plan.writers, *plan.readers):
        if unit.part.obstacle is not None:
            raise ConfigError(
                f"{found.source}: {unit.part.name} has no virtual weights: {unit.part.obstacle}. They are for models "
                "with a single residual stream."
            )
    return plan


def _before_norm(part: Part, grams: Iterable[Array]) -> None:
    """Readers of the stream before the norm that it passes at the end of a part, in place of behind it."""
    if part.norm is None or part.kind == "final_norm":  # which is the readers' own
        return
    for total in grams:
        through_norm(total, part.norm.contract, part.norm.gain, reads=True)


def is_earlier(writer: Unit, reader: Unit) -> bool:
    """Whether what the writer adds is in what the reader reads; of sublayers side by side it is not."""
    if writer.index >= reader.index:
        return False
    residual = reader.part.residual
    side_by_side = residual is not None and residual.parallel != "none"
    return not (side_by_side and writer.part.layer == reader.part.layer)


def _check_patterns(choice: Choice, writers: list[Unit], readers: list[Unit]) -> None:
    for pattern in choice.patterns:
        first, colon, second = pattern.partition(":")
        if not colon:
            raise ConfigError(
                f"--pairs {pattern!r} is not WRITER:READER, such as '*.mlp.proj:*.mlp.fc'; both may hold * and ?."
            )
        for side, text, units in (("writer", first, writers), ("reader", second, readers)):
            names = [unit.name for unit in units]
            if not any(fnmatchcase(name, text) for name in names):
                hint = did_you_mean(text, names) or f"There are {', '.join(names[:4])}, ..."
                raise ConfigError(f"--pairs {pattern!r}: no {side} is named {text!r}. {hint}")


@dataclass(frozen=True)
class Measure:
    """Fills a result in. directions, samples, seed: see `virtual_weights`."""

    result: VirtualWeights
    directions: int = 0
    samples: int = 0
    seed: int = 0

    def one_writer(self, writer: int, reads: Mapping[int, Array], written: Array) -> None:
        """Some readers of one writer, side by side. reads: Gram matrices by the readers' numbers."""
        with one_blas_thread(), ThreadPoolExecutor(min(len(reads), os.cpu_count() or 1)) as pool:
            # Waits for all of them, and raises what one of them raised.
            list(pool.map(lambda number: self._pair(writer, number, reads[number], written), reads))

    def _pair(self, writer: int, reader: int, reads: Array, written: Array) -> None:
        result, place = self.result, (writer, reader)
        pair = result.writers[writer], result.readers[reader]
        product = inner(reads, written)
        sizes = trace(reads) * trace(written)
        found = largest(reads, written, max(self.directions, 1))
        result.frobenius[place] = max(product, 0.0) ** 0.5
        result.spectral[place] = found.values[0]
        result.steps[place] = found.steps
        if not found.converged:
            result.unfinished.append(pair)
        if sizes > 0:
            mean, deviation = expected(reads, written)
            result.score[place] = (max(product, 0.0) / sizes) ** 0.5
            result.deviations[place] = (product - mean) / deviation if deviation > 0 else np.nan
        if self.directions:
            into = written @ found.vectors
            result.directions[pair] = Directions(
                found.values, _unit_rows(into.T), _unit_rows((reads @ into).T)
            )
        if self.samples:
            result.sampled[pair] = sampled_scores(reads, written, self.samples, self.seed)


def _unit_rows(values: Array) -> Array:
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(lengths > 0, lengths, 1)
