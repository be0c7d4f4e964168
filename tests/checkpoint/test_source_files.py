"""The files of source weights: safetensors and torch.save's, one or several with an index."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file
from source_values import random

from trtllm_ext.checkpoint.convert.source_files import open_weights
from trtllm_ext.errors import CheckpointError

BUDGET_S = 4


@pytest.mark.parametrize("kind", ["F8_E4M3", "F8_E5M2"])
def test_quantised_safetensors_are_refused_by_type(tmp_path, kind):
    header = json.dumps({"w": {"dtype": kind, "shape": [8], "data_offsets": [0, 8]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(
        CheckpointError, match=rf"w has the type {kind}: the model is quantised. Dequantise it"
    ):
        open_weights(tmp_path)


FORMS = {"safetensors": "model.safetensors", "torch": "pytorch_model.bin"}
WEIGHTS = {
    "a.weight": random((40, 30)),
    "a.bias": random((40,)),
    "b.weight": random((30, 2000)),
    "b.bias": random((2000,), np.float16),
}
PLACES = {"a.weight": "1", "a.bias": "1", "b.weight": "2", "b.bias": "2"}


@pytest.fixture(params=FORMS)
def sharded(request, tmp_path):
    """make(places in the index, names held in each file) -> a folder with two files and an index."""
    if request.param == "torch":
        torch = pytest.importorskip("torch", reason="torch is not installed")

    def make(places=PLACES, held=("a.weight a.bias", "b.weight b.bias"), index=None):
        for number, names in zip("12", held, strict=True):
            weights = {name: WEIGHTS[name] for name in names.split()}
            if request.param == "torch":
                torch.save(
                    {name: torch.from_numpy(w) for name, w in weights.items()}, tmp_path / f"{number}.bin"
                )
            else:
                save_file(weights, tmp_path / f"{number}.bin")
        weight_map = {name: f"{place}.bin" for name, place in places.items()}
        file = tmp_path / f"{FORMS[request.param]}.index.json"
        file.write_text(
            json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map} if index is None else index)
        )
        return tmp_path

    return make


def test_shards(sharded):
    weights = open_weights(sharded())
    assert sorted(weights) == sorted(WEIGHTS) and len(weights) == 4
    for _ in range(2):  # pages given back are read again
        for name, expected in WEIGHTS.items():
            assert weights[name].tobytes() == expected.tobytes()
            assert weights[name].dtype == expected.dtype
            weights.release_pages(name)


def test_lying_indexes(sharded):
    def refused(message, **arguments):
        with pytest.raises(CheckpointError, match=message):
            open_weights(sharded(**arguments))

    refused(r"1.bin lacks 1 of the weights listed: c.bias", places={**PLACES, "c.bias": "1"})
    refused(
        r"disagree: 1.bin holds 1 that are not listed there: a.bias; 2.bin lacks 1 of the weights listed: a.bias\.",
        places={**PLACES, "a.bias": "2"},
    )
    refused(
        r"1.bin holds 1 that are not listed there: b.bias", held=("a.weight a.bias b.bias", "b.weight b.bias")
    )
    refused(r"names 2 file\(s\) that are not there: 3.bin, 4.bin", places={**PLACES, "x": "3", "y": "4"})
    refused(r"points outside its folder: '\.\./1.bin'", places={**PLACES, "x": "../1"})
    refused(r"names 1 file\(s\) that are not there: \.\.\. Fetch", index={"weight_map": {"x": ".."}})
    refused(r"has no weight_map from weight names", index={"weight_map": {"x": 1}})
    refused(r"has no weight_map from weight names", index={})


def test_safetensors_come_first(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    torch.save({"a": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    assert list(open_weights(tmp_path)) == ["a"]
    save_file({"b": np.zeros(1, np.float32)}, tmp_path / "part.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"b": "part.safetensors"}}')
    assert list(open_weights(tmp_path)) == ["b"]
    save_file({"c": np.zeros(1, np.float32)}, tmp_path / "model.safetensors")
    assert list(open_weights(tmp_path)) == ["c"]
