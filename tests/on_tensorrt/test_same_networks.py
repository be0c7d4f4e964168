"""The same graph, builder and runtime code on NVIDIA's TensorRT and on the embedded engine: the same numbers.

Needs NVIDIA's `tensorrt` and a GPU.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from networks import NETWORKS

from trtllm_ext import backend

BUDGET_S = 600

pytestmark = pytest.mark.usefixtures("real_tensorrt")

# Largest difference, of the largest value: products in TF32, which TensorRT takes for float32 unless told not to,
# have a mantissa of 10 bits; so has float16, rounded at every layer's edge.
TOLERANCE = {"float32": 2e-3, "float16": 6e-3}


def outputs_of(name, dtype, engine, folder):
    path = folder / f"{engine}.npz"
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("networks.py"), name, dtype, path],
        env={**os.environ, backend.ENVIRONMENT_VARIABLE: engine},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["engine"] == engine
    return dict(np.load(path))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", NETWORKS)
def test_same_numbers(name, dtype, tmp_path, record_property):
    ours = outputs_of(name, dtype, "embedded", tmp_path)
    theirs = outputs_of(name, dtype, "tensorrt", tmp_path)
    assert set(ours) == set(theirs)
    for key, value in ours.items():
        assert theirs[key].dtype == value.dtype
        assert theirs[key].shape == value.shape
        scale = np.abs(value.astype(np.float64)).max()
        difference = np.abs(theirs[key].astype(np.float64) - value).max() / scale
        record_property(key, f"{difference:.1e} of {scale:.2f}")
        assert difference <= TOLERANCE[dtype], (key, difference)
