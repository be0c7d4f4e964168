"""Each rank's part of all_reduce.py, which starts it: mpiexec -n N python all_reduce_step.py FILE ROUNDS

A plan's step and a bare mpi4py Allreduce take turns, in the same random order on every rank.
"""

import json
import random
import statistics
import sys
import time
from pathlib import Path

import numpy as np

from trtllm_ext import parallel
from trtllm_ext.embedded.plan import CollectiveStep
from trtllm_ext.embedded.running.collective_call import CollectiveCall, Scratch
from trtllm_ext.embedded.running.memory import Blocks
from trtllm_ext.embedded.running.place import Place

SIZES = tuple(1 << power for power in range(12, 25, 2))
SECONDS_PER_TURN = 0.03


def main() -> None:
    world = parallel.world()
    from mpi4py import MPI

    bare = MPI.COMM_WORLD.Dup()
    group = list(range(world.world_size))
    variants = {
        "ours": step_of_plan(world, group),
        "bare": lambda values: bare.Allreduce(MPI.IN_PLACE, [values, values.size, MPI.FLOAT], MPI.SUM),
    }
    samples = {}
    for size in SIZES:
        for name, reduce in variants.items():
            check(name, reduce, size // 4, world)
        samples[size] = timed(variants, np.zeros(size // 4, np.float32), int(sys.argv[2]), world, bare)
    if world.rank == 0:
        library = MPI.Get_library_version().splitlines()[0].replace("\t", " ")
        Path(sys.argv[1]).write_text(json.dumps({"library": " ".join(library.split()), "samples": samples}))


def step_of_plan(world, group):
    """An all-reduce as an engine does it between two segments, in place."""
    step = CollectiveStep("layer", "ALL_REDUCE", "SUM", tuple(group), "x", "y", "float32", max(SIZES) // 4)
    call = CollectiveCall(step, Blocks(), Scratch(), takes_over=True)
    call.communicator = world
    return lambda values: call.run({"x": Place(values.shape, values.ctypes.data)}, {}, 0)


def check(name, reduce, count, world) -> None:
    """Raises AssertionError for a wrong sum."""
    parts = [np.random.default_rng(rank).standard_normal(count) for rank in range(world.world_size)]
    values = parts[world.rank].astype(np.float32)
    reduce(values)
    np.testing.assert_allclose(values, sum(parts), rtol=1e-5, atol=1e-5, err_msg=name)


def timed(variants, values, rounds, world, bare) -> dict[str, list[float]]:
    """Seconds a call: the median of a turn, one turn a round and variant."""
    begin = time.perf_counter()
    for reduce in variants.values():
        reduce(values)
    calls = int(SECONDS_PER_TURN * len(variants) / max(time.perf_counter() - begin, 1e-6))
    # Every rank must make as many.
    calls = max(5, min(500, *world.exchange(calls)))
    samples = {name: [] for name in variants}
    shuffled = random.Random(0)
    for _ in range(rounds):
        for name in shuffled.sample(list(variants), len(variants)):
            reduce = variants[name]
            bare.Barrier()
            for _ in range(2):
                reduce(values)
            times = []
            for _ in range(calls):
                begin = time.perf_counter()
                reduce(values)
                times.append(time.perf_counter() - begin)
            samples[name].append(statistics.median(times))
    return samples


if __name__ == "__main__":
    main()
