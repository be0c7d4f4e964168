"""Both ranks' part of tensor_parallel.py, which starts it: mpiexec -n 2 python tensor_parallel_step.py FOLDER ROUNDS

The variants take turns: the whole model on rank 0 while rank 1 sleeps; the model split over both; and, for the cost
model, a rank's share of it on both without a word between them, so that they share the machine's memory as in a run.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from trtllm_ext import parallel
from trtllm_ext.parallel import Communicator
from trtllm_ext.runtime import Session

TOKENS = (1, 16, 64, 512)
SIZES = tuple(1 << power for power in range(12, 24))


class Nobody(Communicator):
    """A world of which only this rank is there: nothing is moved or added."""

    is_simulated = False
    rank, timeout = 0, 10.0

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size

    def all_reduce(self, values, group, op="sum"):
        """What this rank has stays as it is."""

    def all_gather(self, values, gathered, group):
        raise AssertionError("this model gathers nothing")

    def reduce_scatter(self, values, part, group, op="sum"):
        raise AssertionError("this model scatters nothing")

    def exchange(self, value):
        return [value] * self.world_size

    def prepare(self, group):
        """Nobody is to be told."""

    def busy(self, what):
        return nullcontext()

    def fail(self, message):
        """The rank's own error tells it."""

    def close(self):
        """Nothing is open."""


class Turns:
    """Lets rank 0 work alone while the other sleeps: waiting awake, it would take from the machine's power."""

    def __init__(self) -> None:
        from mpi4py import MPI

        self.comm, self._mpi = MPI.COMM_WORLD, MPI

    def alone(self, run: Callable[[], object]) -> float:
        """Seconds of `run()` on rank 0; 0 on others."""
        taken = 0.0
        if self.comm.rank == 0:
            begin = time.perf_counter()
            run()
            taken = time.perf_counter() - begin
            self.comm.send(None, 1, tag=7)
        else:
            while not self.comm.Iprobe(0, tag=7):
                time.sleep(0.001)
            self.comm.recv(source=0, tag=7)
        return taken

    def together(self, run: Callable[[], object]) -> float:
        """Seconds of `run()` on all ranks, from a common start."""
        self.comm.Barrier()
        begin = time.perf_counter()
        run()
        self.comm.Barrier()
        return time.perf_counter() - begin


def share_alone(path: Path, ranks: int) -> Session:
    """Rank 0's engine of `ranks`, with nobody else."""
    import trtllm_ext.embedded as trt

    runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    session = Session(runtime.deserialize_cuda_engine(path.read_bytes()))
    if not session.context.set_communicator(Nobody(ranks)):
        raise RuntimeError(f"{path.name} takes no communicator")
    return session


def runs(folder: Path, rounds: int, turns: Turns) -> dict[str, dict[str, list[float]]]:
    """Seconds by tokens and variant, of rank 0."""
    rank = turns.comm.rank
    whole = Session.from_engine_dir(folder / "whole", communicator=None) if rank == 0 else None
    split = Session.from_engine_dir(folder / "split", communicator=parallel.world())
    shares = {
        int(path.stem[5:]): share_alone(path, int(path.stem[5:]))
        for path in sorted(folder.glob("share*.engine"))
    }
    samples: dict[str, dict[str, list[float]]] = {}
    for tokens in TOKENS:
        x = {"hidden_states": np.random.default_rng(tokens).standard_normal((tokens, 2048), np.float32)}
        check(turns, x, whole, split)
        samples[str(tokens)] = take_turns(variants(x, turns, whole, split, shares), rounds, turns)
    return samples


def variants(
    x: dict[str, np.ndarray],
    turns: Turns,
    whole: Session | None,
    split: Session,
    shares: dict[int, Session],
) -> dict[str, Callable[[], float]]:
    return {
        "whole": lambda: turns.alone(lambda: whole.run(x)),
        "split": lambda: turns.together(lambda: split.run(x)),
        **{f"share{n}": (lambda n=n: turns.together(lambda: shares[n].run(x))) for n in shares},
    }


def check(turns: Turns, x: dict[str, np.ndarray], whole: Session | None, split: Session) -> None:
    """The split model's answer is the whole one's, and the same bits on both ranks."""
    ours = split.run(x)["hidden_states_out"]
    bits = turns.comm.allgather(ours.tobytes())
    assert bits[0] == bits[1], "the ranks differ"
    if whole is not None:
        expected = whole.run(x)["hidden_states_out"]
        assert np.abs(ours - expected).max() <= 1e-5 * np.abs(expected).max()


def take_turns(variants: dict[str, Callable[[], float]], rounds: int, turns: Turns) -> dict[str, list[float]]:
    samples: dict[str, list[float]] = {name: [] for name in variants}
    shuffled = np.random.default_rng(0)  # the same order on both ranks
    for _ in range(rounds):
        for name in shuffled.permutation(list(variants)):
            variants[name]()
            calls = turns.comm.bcast(3 if variants[name]() > 0.1 else 9, 0)
            samples[name].append(statistics.median(variants[name]() for _ in range(calls)))
    return samples


def link(turns: Turns) -> dict[str, list[float]]:
    """Seconds of an exchange between the two ranks, and of an addition, by size in bytes."""
    exchanges, additions = [], []
    for size in SIZES:
        mine, theirs = np.ones(size // 4, np.float32), np.empty(size // 4, np.float32)
        other = 1 - turns.comm.rank

        def swap(mine=mine, theirs=theirs, other=other):
            turns.comm.Sendrecv(mine, other, 0, theirs, other, 0)

        exchanges.append(median_of(swap))
        additions.append(median_of(lambda mine=mine, theirs=theirs: np.add(mine, theirs, out=theirs)))
    return {"sizes": list(SIZES), "exchanges": exchanges, "additions": additions}


def median_of(run: Callable[[], object], calls: int = 101) -> float:
    times = []
    for _ in range(calls):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def main() -> None:
    folder, rounds = Path(sys.argv[1]), int(sys.argv[2])
    parallel.world()
    turns = Turns()
    found = {
        "samples": runs(folder, rounds, turns),
        "link": link(turns),
        "threads": len(list(Path("/proc/self/task").iterdir())),
    }
    if turns.comm.rank == 0:
        (folder / "figures.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
