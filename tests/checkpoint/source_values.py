"""Random source weights, shared by the tests of pieces, ledger, files and writer."""

import numpy as np


def random(shape, dtype=np.float32):
    return np.asarray(np.random.default_rng(0).normal(size=shape)).astype(dtype)
