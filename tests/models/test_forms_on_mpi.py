"""Every form of SublayerStack on ranks that are processes of the machine's mpiexec, against the formulas of the whole.

A launch goes through many cases; a test looks at one of them.
"""

import os
import pickle
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from forms_on_mpi import digest
from rank_modules import run_engines
from stack_forms import OTHERS
from stack_on_ranks import problem_of
from sublayer_formulas import TOLERANCE

from trtllm_ext.checkpoint import FORMS
from trtllm_ext.parallel.launch import launcher_options

BUDGET_S = 20  # two launches, of 2 and 4 processes, each of which builds a network a case

LIMIT_S = 120
PROGRAM = Path(__file__).with_name("forms_on_mpi.py")
LIMITS = TOLERANCE | {"float32": 1e-5}
VARIABLES = {"TRTLLM_EXT_NUM_THREADS": "1", "TRTLLM_EXT_RANK_TIMEOUT": "60"}


class Case(NamedTuple):
    """A form in a type, and whether its tokens are dealt out to the ranks."""

    form: str
    dtype: str = "float32"
    sequence_parallel: bool = False

    def __str__(self):
        return ", ".join([self.form, self.dtype, *["sequence parallel"] * self.sequence_parallel])


CASES = (
    *(Case(form) for form in (*FORMS, *OTHERS)),
    *(
        Case(form, sequence_parallel=True)
        for form in ("hyper_dynamic", "bert", "llama_swiglu", "mixture_renormalized", "wide parallel")
    ),
    Case("llama_swiglu", "float16"),
    Case("gpt2", "float16", sequence_parallel=True),
    Case("llama_swiglu", "bfloat16"),
    Case("float32_stream", "bfloat16"),
    Case("clamped", "bfloat16", sequence_parallel=True),
)
RANKS = (2, 4)
# What ranks in memory run too by default.
REHEARSED = [
    Case("bert"),
    Case("mixture_softmax_shared"),
    Case("hyper_dynamic", sequence_parallel=True),
    Case("llama_swiglu", "bfloat16"),
]

pytestmark = pytest.mark.usefixtures("one_thread")


def is_default(ranks, case):
    """Whether the default tests have it: every second on 2 ranks; on 4 those that ranks in memory run too."""
    return case in REHEARSED or (ranks == 2 and CASES.index(case) % 2 == 0)


class Launch(NamedTuple):
    """What has come out of one. results: (hidden_states_out, digests of all ranks' bits) by the case's text."""

    problems: dict
    results: dict
    engines: list


@pytest.fixture(scope="module")
def launched(mpi_launcher, tmp_path_factory):
    """A function from a number of ranks and a case to its Launch: that of the default ones, or of the others."""
    command = [*mpi_launcher, *launcher_options(mpi_launcher, [*VARIABLES, "PYTHONPATH"]), "-n"]
    checkpoints = tmp_path_factory.mktemp("checkpoints")
    problem = cache(lambda form, dtype: problem_of(checkpoints, form, dtype))

    @cache
    def launch(ranks, default):
        cases = [case for case in CASES if is_default(ranks, case) == default]
        problems = {str(case): problem(case.form, case.dtype) for case in cases}
        folder = tmp_path_factory.mktemp(f"{ranks}_ranks")
        what = [(str(case), problems[str(case)], case.sequence_parallel) for case in cases]
        (folder / "problems.pickle").write_bytes(pickle.dumps(what))
        error = failure([*command, str(ranks), sys.executable, str(PROGRAM), str(folder)])
        if error:
            return error
        engines = [pickle.loads((folder / f"{rank}.engines.pickle").read_bytes()) for rank in range(ranks)]
        return Launch(problems, pickle.loads((folder / "results.pickle").read_bytes()), engines)

    def successful(ranks, case):
        found = launch(ranks, is_default(ranks, case))
        assert isinstance(found, Launch), found
        return found

    return successful


def failure(command):
    """What a launch that has failed has said; None of a good one."""
    environment = {**os.environ, **VARIABLES, "PYTHONPATH": os.pathsep.join(sys.path)}
    try:
        ended = subprocess.run(command, env=environment, timeout=LIMIT_S, capture_output=True, check=False)
    except subprocess.TimeoutExpired as error:
        return f"{(error.stderr or b'').decode()}does not end within {LIMIT_S} s"
    return ended.stderr.decode() if ended.returncode else None


def parameters(is_short):
    """A number of ranks and a case each. is_short: case -> whether it is for the default tests."""
    return [
        pytest.param(
            ranks,
            case,
            id=f"{case}, {ranks} ranks",
            marks=[] if is_short(case) and is_default(ranks, case) else [pytest.mark.long],
        )
        for ranks in RANKS
        for case in CASES
    ]


@pytest.mark.parametrize("ranks, case", parameters(lambda case: True))
def test_the_answer_is_that_of_the_whole(launched, ranks, case):
    found = launched(ranks, case)
    (got, digests), problem = found.results[str(case)], found.problems[str(case)]
    reference = problem.reference()
    assert (got.shape, got.dtype.name) == (reference.shape, problem.config.stream_dtype)
    error = np.abs(got.astype(np.float64) - reference).max() / np.abs(reference).max()
    assert error <= LIMITS[case.dtype]
    assert len(digests) == ranks
    assert len(set(digests)) == 1, "ranks with other bits"


@pytest.mark.parametrize("ranks, case", parameters(REHEARSED.__contains__))
def test_the_bits_are_those_of_ranks_in_memory(launched, ranks, case):
    found = launched(ranks, case)
    outputs = run_engines([of_rank[str(case)] for of_rank in found.engines], found.problems[str(case)].inputs)
    expected = {digest(each["hidden_states_out"]) for each in outputs}
    assert set(found.results[str(case)][1]) == expected
