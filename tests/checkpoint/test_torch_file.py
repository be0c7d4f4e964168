"""Files of torch.save as source weights: every form, and those that are refused."""

import json

import ml_dtypes
import numpy as np
import pytest
from source_values import random

from trtllm_ext.checkpoint.convert.source_files import open_weights
from trtllm_ext.errors import CheckpointError

BUDGET_S = 4


@pytest.fixture
def torch_folder(tmp_path):
    """make(state, shard=..., **options of torch.save) -> a folder with pytorch_model.bin, or with one shard of it."""
    torch = pytest.importorskip("torch", reason="torch is not installed")

    def make(state, shard=False, **options):
        torch.save(state, tmp_path / ("1.bin" if shard else "pytorch_model.bin"), **options)
        index = {"weight_map": dict.fromkeys(state, "1.bin")} if shard else None
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
        return tmp_path

    return make


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_tensors_of_every_form(torch_folder, zipped):
    import torch

    matrix = torch.from_numpy(random((64, 100)))
    state = {
        "bf16": matrix.bfloat16(),
        "transposed": matrix.T,
        "half": matrix.half(),
        "tied": matrix,
        "cut": matrix[1:, 3:],
    }
    weights = open_weights(torch_folder(state, _use_new_zipfile_serialization=zipped))
    for _ in range(2):
        for name, tensor in state.items():
            np.testing.assert_array_equal(weights[name].astype(np.float32), tensor.float().numpy())
            weights.release_pages(name)
    assert weights["bf16"].dtype == ml_dtypes.bfloat16


class _NotATensor:
    pass


@pytest.mark.parametrize("shard", [False, True])
def test_torch_files_with_anything_but_tensors_are_refused(torch_folder, shard):
    import torch

    for state, message in (
        ({"w": _NotATensor()}, r"cannot be read as a dict of tensors: Weights only load failed"),
        ({"w": 1.0}, r"w is a float, not a dense tensor"),
        ({"w": torch.zeros(2).to_sparse()}, r"w is a Tensor, not a dense tensor"),
        (
            {"w": torch.zeros(2).to(torch.float8_e4m3fn)},
            r"w has the type torch.float8_e4m3fn: .* Dequantise it",
        ),
        (
            {"w": torch.zeros(2, device="meta")},
            r"w has the type torch.float32, which is not supported|cannot be read",
        ),
    ):
        with pytest.raises(CheckpointError, match=message):
            open_weights(torch_folder(state, shard))


def test_shards_that_can_only_be_read_as_a_whole_are_refused(torch_folder, monkeypatch):
    import torch

    folder = torch_folder({"w": torch.zeros(2)}, shard=True, _use_new_zipfile_serialization=False)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(CheckpointError, match=r"1.bin has the format of torch before 1.6, .* as safetensors"):
        open_weights(folder)
