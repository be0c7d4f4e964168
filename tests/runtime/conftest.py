"""Small engines for the tests of sessions."""

import numpy as np
import pytest
from small_engines import HIDDEN, build, packed

import trtllm_ext as tx
from trtllm_ext.graph import functional


@pytest.fixture(scope="session")
def weight():
    return np.random.default_rng(0).normal(size=(HIDDEN, HIDDEN)).astype(np.float32)


@pytest.fixture(scope="session")
def engine(weight):
    """y = relu(x W), x float32 [1 .. 16 tokens, 8]."""

    def define():
        functional.relu(functional.matmul(packed(), functional.constant(weight))).mark_output("y", "float32")

    return build(define)


@pytest.fixture
def session(engine):
    with tx.Session.from_serialized_engine(engine) as made:
        yield made
