"""Collectives that a rank of any world goes through: over MPI and in memory they must give the same bits.

mpiexec -n N python rank_cases.py FOLDER   writes FOLDER/R.json: case -> digest of its result on rank R.
"""

import hashlib
import json
import sys
from functools import cache
from pathlib import Path

import ml_dtypes
import numpy as np

from trtllm_ext.parallel import mpi_team, world

# Large: in groups of any number of ranks the widest type is above `mpi_team.WHOLE_BYTES`.
SMALL, LARGE = (0, 1, 7), 70_003
TYPES = ("float32", "float64", "int32", "int64")
# More ranks than the machine has cores take turns, awake: of more than two each case costs a hundred times as much.
TYPES_OF_MANY = ("float32", "int64")
OPERATIONS = ("sum", "prod", "max", "min")


@cache
def numbers_of(rank, size):
    rng = np.random.default_rng([rank, size])
    return rng.standard_normal(size) * 2.0 ** rng.integers(-2, 9, size)


def values_of(rank, size, dtype):
    """What a rank puts in: of several magnitudes, so that another order of summation gives other bits."""
    return numbers_of(rank, size).astype(dtype)


def groups_of(rank, world_size):
    """The world, the world in another order, and the half that the rank is in."""
    everyone = list(range(world_size))
    half = everyone[: world_size // 2] if rank < world_size // 2 else everyone[world_size // 2 :]
    return everyone, everyone[::-1], half


def types_of(communicator):
    return TYPES if communicator.world_size == 2 else TYPES_OF_MANY


def cases(communicator):
    """(name, the result's bytes) of each."""
    for number, group in enumerate(groups_of(communicator.rank, communicator.world_size)):
        communicator.prepare(group)
        for dtype in types_of(communicator):
            for size in SMALL:
                yield from case(communicator, group, dtype, size, OPERATIONS if number == 0 else ["sum"])
    yield from large_cases(communicator)
    group = groups_of(communicator.rank, communicator.world_size)[0]
    for dtype in (np.float16, ml_dtypes.bfloat16, np.bool_):
        gathered = np.empty(5 * len(group), dtype)
        communicator.all_gather(values_of(communicator.rank, 5, dtype), gathered, group)
        yield f"all_gather of {np.dtype(dtype)}", gathered.tobytes()
        values = values_of(communicator.rank, 5, dtype)
        communicator.broadcast(values, group)
        yield f"broadcast of {np.dtype(dtype)}", values.tobytes()
    told = communicator.exchange({"rank": communicator.rank, "text": "ä" * communicator.rank})
    yield "exchange", json.dumps(told).encode()


def large_cases(communicator):
    for group in groups_of(communicator.rank, communicator.world_size):
        for dtype in types_of(communicator):
            yield from case(communicator, group, dtype, LARGE, ["sum"])


def case(communicator, group, dtype, size, operations):
    name = f"of {size} {dtype} over {group}"
    for operation in operations:
        values = values_of(communicator.rank, size, dtype)
        communicator.all_reduce(values, group, operation)
        yield f"all_reduce {operation} {name}", values.tobytes()
        values, part = values_of(communicator.rank, size * len(group), dtype), np.empty(size, dtype)
        communicator.reduce_scatter(values, part, group, operation)
        yield f"reduce_scatter {operation} {name}", part.tobytes()
    communicator.all_gather(values, gathered := np.empty(values.size * len(group), dtype), group)
    yield f"all_gather {name}", gathered.tobytes()
    values.flags.writeable = communicator.rank != group[0]  # as what is received from elsewhere
    communicator.broadcast(values, group)
    yield f"broadcast {name}", values.tobytes()
    # In place: the rank's values lie where they belong.
    own = gathered.reshape(len(group), -1)[list(group).index(communicator.rank)]
    communicator.all_gather(own, gathered, group)
    yield f"all_gather in place {name}", gathered.tobytes()


def digests(results):
    """{case: digest of its result}."""
    return {name: hashlib.sha256(result).hexdigest() for name, result in results}


def main() -> None:
    communicator = world()
    found = {"whole": digests(cases(communicator))}
    # As arrays of gigabytes go.
    mpi_team.PIECE_BYTES = 250_000
    found["in pieces"] = digests(large_cases(communicator))
    (Path(sys.argv[1]) / f"{communicator.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
