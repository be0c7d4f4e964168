"""What `virtual_weights` will take: from this machine's rates and from a few pairs of the model itself."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trtllm_ext.analysis.progress import Progress, silent
from trtllm_ext.analysis.stream_map.stored import Matrix
from trtllm_ext.analysis.stream_map.stream_map import StreamMap
from trtllm_ext.analysis.virtual_weights.gram import (
    CHUNK,
    SLICE_BYTES,
    Array,
    Unit,
    add_products,
    gram,
    gram_dtype,
)
from trtllm_ext.analysis.virtual_weights.virtual_weights import Choice, Measure, Pairs, plan_pairs
from trtllm_ext.checkpoint.convert.stream import RELEASE_BYTES

# Writers of the model that are paired with the readers of one part for the estimate.
SAMPLED = 4
_READ_BYTES = 64 << 20
# How long each rate is measured: other programs come and go.
MEASURED_S = 1.0


@dataclass(frozen=True)
class Estimate:
    """seconds: in all; of them gram_seconds for the Gram matrices, read_seconds for reading weights, pair_seconds for
    all pairs. memory_bytes: peak of the process. disk_bytes: of the temporary folder. read_bytes: of weights.
    flop: of the Gram matrices' products. gigaflops, read_gigabytes: measured rates, a second. steps: of the spectral
    norms of the pairs tried.
    """

    pairs: int
    seconds: float
    gram_seconds: float
    read_seconds: float
    pair_seconds: float
    memory_bytes: int
    disk_bytes: int
    read_bytes: int
    flop: float
    gigaflops: float
    read_gigabytes: float
    steps: float


def estimate(found: StreamMap, *, pairs: Sequence[str] = (), progress: Progress | None = None) -> Estimate:
    """For the same arguments as `virtual_weights`, without directions and samples.

    Cost: some products of this hidden size, and the Gram matrices and norms of SAMPLED writers with one part's readers
    each, whose seconds are taken for those of all. Raises ConfigError as `virtual_weights` does.
    """
    tell = silent if progress is None else progress
    plan = plan_pairs(found, Choice(tuple(pairs)))
    hidden, units = found.hidden_size, [*plan.writers, *plan.readers]
    size = hidden**2 * gram_dtype(hidden).itemsize
    tell("measuring products", 0, SAMPLED + 2)
    row_seconds = _row_seconds(hidden)
    tell("measuring reads", 1, SAMPLED + 2)
    byte_seconds = _byte_seconds(
        max((m for unit in units for m in unit.matrices), key=lambda m: m.float32_bytes)
    )
    read_bytes = sum(matrix.float32_bytes for unit in units for matrix in unit.matrices)
    tried = []
    for number, (writer, group) in enumerate(_sample(plan)):
        tell("trying pairs", 2 + number, SAMPLED + 2)
        tried.append(_try(plan, writer, group))
    pair_seconds = float(np.mean([seconds for seconds, _ in tried])) * plan.count
    total_rows = sum(unit.rows for unit in units)
    gram_seconds = total_rows * row_seconds
    read_seconds = read_bytes * byte_seconds
    tell("trying pairs", SAMPLED + 2, SAMPLED + 2)
    return Estimate(
        pairs=plan.count,
        seconds=gram_seconds + read_seconds + pair_seconds,
        gram_seconds=gram_seconds,
        read_seconds=read_seconds,
        pair_seconds=pair_seconds,
        memory_bytes=_memory(plan, units, size),
        disk_bytes=len(plan.writers) * size,
        read_bytes=read_bytes,
        flop=2.0 * total_rows * hidden**2,
        gigaflops=2e-9 * hidden**2 / row_seconds,
        read_gigabytes=1e-9 / byte_seconds,
        steps=float(np.mean([steps for _, steps in tried])),
    )


def _memory(plan: Pairs, units: Sequence[Unit], size: int) -> int:
    """What the process has, pages of a file, the largest matrix or slice, a chunk, the Gram matrices at a time."""
    largest_matrix = max(_held(matrix) for unit in units for matrix in unit.matrices)
    together = max(len(group) for group in plan.groups())
    chunk = CHUNK * plan.found.hidden_size * gram_dtype(plan.found.hidden_size).itemsize
    return _resident_bytes() + RELEASE_BYTES + largest_matrix + chunk + (together + 2) * size


def _resident_bytes() -> int:
    """Of this process now; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _held(matrix: Matrix) -> int:
    return min(matrix.float32_bytes, SLICE_BYTES) if matrix.sliceable else matrix.float32_bytes


def _row_seconds(hidden: int) -> float:
    """Of one row's product with itself, added up."""
    rng = np.random.default_rng(0)
    chunk = rng.normal(size=(CHUNK, hidden)).astype(np.float32)
    total: Array = np.zeros((hidden, hidden), gram_dtype(hidden))
    add_products(total, chunk)
    return _seconds(lambda: add_products(total, chunk)) / CHUNK


def _byte_seconds(matrix: Matrix) -> float:
    """Of reading a byte (as float32) from the files, the first time."""
    rows = max(1, _READ_BYTES // (4 * matrix.shape[1]))
    part = matrix.part(0, 0, min(rows, matrix.shape[0])) if matrix.sliceable else matrix
    began = time.perf_counter()
    part.load()
    return (time.perf_counter() - began) / part.float32_bytes


def _seconds(action: Callable[[], object]) -> float:
    """Of one call, of as many as fill MEASURED_S."""
    began, count = time.perf_counter(), 0
    while count < 2 or time.perf_counter() - began < MEASURED_S:
        action()
        count += 1
    return (time.perf_counter() - began) / count


def _sample(plan: Pairs) -> list[tuple[int, list[int]]]:
    """Writers, each with the readers of one part, spread evenly over the model; of no table of words."""
    most = 8 * plan.found.hidden_size
    every = []
    for group in plan.groups():
        for writer in range(len(plan.writers)):
            wanted = [number for number in group if plan.has(writer, number)]
            if wanted:
                every.append((writer, wanted))
    small = [
        (writer, group)
        for writer, group in every
        if max(plan.writers[writer].rows, *(plan.readers[number].rows for number in group)) <= most
    ]
    chosen = small or every
    places = np.linspace(0, len(chosen) - 1, SAMPLED + 2).astype(int)[1:-1]
    return [chosen[place] for place in dict.fromkeys(places.tolist())]


def _try(plan: Pairs, writer: int, group: list[int]) -> tuple[float, float]:
    """Seconds of a pair, its writer read back from the disk, and the mean number of steps."""
    hidden, result = plan.found.hidden_size, plan.result()
    with tempfile.TemporaryDirectory(prefix="virtual_weights") as folder:
        file = Path(folder) / "writer.npy"
        np.save(file, gram(plan.writers[writer], hidden))
        reads = {number: gram(plan.readers[number], hidden) for number in group}
        measure = Measure(result)
        seconds = _seconds(lambda: measure.one_writer(writer, reads, np.load(file)))
    return seconds / len(group), float(np.mean([result.steps[writer, number] for number in group]))
