"""Random chains of collectives and other operations on two ranks: engine and oracle differ by rounding errors only."""

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from networks_of_ranks import RankNetwork, run_networks
from sampling import examples

import trtllm_ext.graph.functional as fn

BUDGET_S = 8

USUAL = settings(
    max_examples=examples(20), deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
)
LONG = settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)

TYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
LARGEST = 512
KINDS = ["tanh", "scale", "shift", "add", "cast", "allreduce", "reduce_scatter", "allgather"]


@dataclass
class Sketch:
    """What a tensor is on every rank: bounds of its values' size and of the engine's error."""

    shape: tuple[int, ...]
    dtype: str
    size: float
    error: float

    def rounded(self, size, error, shape=None, dtype=None):
        dtype = self.dtype if dtype is None else dtype
        unit = float(ml_dtypes.finfo(TYPES[dtype]).eps)
        # 1e-6: the engine's tanh.
        return Sketch(self.shape if shape is None else shape, dtype, size, error + unit * size + 1e-6)


@dataclass(frozen=True)
class Step:
    """kind: one of KINDS. operand, other: places among the tensors so far, counted round. number: in -1..1."""

    kind: str
    operand: int
    other: int
    number: float


PLACES = st.integers(0, 30)
STEPS = st.lists(
    st.builds(Step, st.sampled_from(KINDS), PLACES, PLACES, st.floats(-1, 1, width=16)),
    min_size=2,
    max_size=8,
)
SHAPES = st.sampled_from([(4,), (2, 3), (4, 3, 2)])


def after(step, sketches):
    """The sketch of a step's result; None if the step does not go on these tensors."""
    x = sketches[step.operand % len(sketches)]
    other = sketches[step.other % len(sketches)]
    if step.kind == "add":
        fits = (x.shape, x.dtype) == (other.shape, other.dtype)
        return x.rounded(x.size + other.size, x.error + other.error) if fits else None
    if step.kind == "allgather":
        shape = list(x.shape)
        shape[step.other % len(shape)] *= 2
        return Sketch(tuple(shape), x.dtype, x.size, x.error) if np.prod(shape) <= LARGEST else None
    if step.kind == "reduce_scatter":
        shape = (x.shape[0] // 2, *x.shape[1:])
        return None if x.shape[0] % 2 else x.rounded(2 * x.size, 2 * x.error, shape)
    return {
        "tanh": lambda: x.rounded(1.0, x.error),
        "scale": lambda: x.rounded(abs(step.number) * x.size, abs(step.number) * x.error),
        "shift": lambda: x.rounded(x.size + 1, x.error),
        "cast": lambda: x.rounded(x.size, x.error, dtype=sorted(TYPES)[step.other % 3]),
        "allreduce": lambda: x.rounded(2 * x.size, 2 * x.error),
    }[step.kind]()


def tensor_after(step, tensors, rank, group):
    x, other = tensors[step.operand % len(tensors)], tensors[step.other % len(tensors)]
    # What is a rank's own differs between the ranks.
    own = (1, -0.5)[rank] * step.number
    return {
        "tanh": lambda: fn.tanh(x),
        "scale": lambda: x * own,
        "shift": lambda: x + own,
        "add": lambda: x + other,
        "cast": lambda: fn.cast(x, sorted(TYPES)[step.other % 3]),
        "allreduce": lambda: fn.allreduce(x, group),
        "reduce_scatter": lambda: fn.reduce_scatter(x, group),
        "allgather": lambda: fn.allgather(x, group, step.other % x.rank()),
    }[step.kind]()


def check(steps, shape, dtype, varying, group):
    sketches, taken = [Sketch(shape, dtype, 4.0, 0.0)], []
    for step in steps:
        sketch = after(step, sketches)
        if sketch is not None and sketch.size < 1000:
            sketches.append(sketch)
            taken.append(step)
    note(f"{taken} on {shape} {dtype}")

    def definition(rank):
        def define(x):
            tensors = [x]
            for step in taken:
                tensors.append(tensor_after(step, tensors, rank, group))
            return [fn.identity(tensor) for tensor in tensors[-2:]]

        return define

    random = np.random.default_rng(len(taken))
    networks = [
        RankNetwork(definition(rank), [random.uniform(-4, 4, shape).astype(TYPES[dtype])], varying)
        for rank in (0, 1)
    ]
    wanted, got = run_networks(networks, "float64"), run_networks(networks, "embedded")
    for place, sketch in enumerate(sketches[-2:]):
        for rank in (0, 1):
            assert got[rank][place].shape == wanted[rank][place].shape == sketch.shape
            error = np.abs(got[rank][place].astype(np.float64) - wanted[rank][place])
            # First-order bounds: twice, so that the neglected second order never matters.
            assert np.max(error, initial=0.0) <= 2 * sketch.error + 1e-30, (sketch, error)


@pytest.fixture(autouse=True)
def embedded_backend(monkeypatch):
    monkeypatch.setenv("TRTLLM_EXT_BACKEND", "embedded")
    monkeypatch.setenv("TRTLLM_EXT_NUM_THREADS", "1")


DRAWN = {
    "steps": STEPS,
    "shape": SHAPES,
    "dtype": st.sampled_from(sorted(TYPES)),
    "varying": st.booleans(),
    "group": st.sampled_from([[0, 1], [1, 0]]),
}


@USUAL
@given(**DRAWN)
def test_chains(steps, shape, dtype, varying, group):
    check(steps, shape, dtype, varying, group)


@pytest.mark.long
@LONG
@given(**DRAWN)
def test_many_chains(steps, shape, dtype, varying, group):
    check(steps, shape, dtype, varying, group)
