"""A rank that runs small stacks over MPI, many in one launch: forms_on_mpi.py FOLDER, started by mpiexec.

FOLDER/problems.pickle holds what to run, a list of (name, problem, whether the tokens are dealt out to the ranks).
A rank writes its engines to FOLDER/R.engines.pickle. At the end rank 0 writes FOLDER/results.pickle: for each name its
result and the digests of the results of all ranks; on stderr it names what it is at.
"""

import gc
import hashlib
import pickle
import sys
from pathlib import Path

from rank_modules import model_engine

import trtllm_ext as tx
from trtllm_ext.parallel import launched_rank, launched_size, world


def digest(result):
    return hashlib.sha256(result.tobytes()).hexdigest()


def build(problems):
    """This rank's engines by name, made before MPI starts: until then waiting for the other ranks costs nothing."""
    rank, size = launched_rank(), launched_size()
    engines = {}
    for name, problem, sequence_parallel in problems:
        say(f"building {name}")
        options = {"sequence_parallel": sequence_parallel, "max_num_tokens": 32}
        engines[name] = bytes(model_engine(problem.config, problem.weights, size, rank, **options))
    return engines


def run(name, engine, inputs, communicator):
    say(f"running {name}")
    with tx.Session.from_serialized_engine(engine, communicator=communicator) as session:
        return session.run(inputs)["hidden_states_out"]


def say(text):
    if launched_rank() == 0:
        sys.stderr.write(f"{text}\n")


def main() -> None:
    gc.disable()  # a tenth of the time, for little memory
    folder = Path(sys.argv[1])
    problems = pickle.loads((folder / "problems.pickle").read_bytes())
    engines = build(problems)
    (folder / f"{launched_rank()}.engines.pickle").write_bytes(pickle.dumps(engines))
    communicator = world()
    results = {name: run(name, engines[name], problem.inputs, communicator) for name, problem, _ in problems}
    digests = communicator.exchange([digest(each) for each in results.values()])
    if launched_rank() == 0:
        told = {name: (results[name], of_ranks) for name, *of_ranks in zip(results, *digests, strict=True)}
        (folder / "results.pickle").write_bytes(pickle.dumps(told))


if __name__ == "__main__":
    main()
