"""The ledger of source weights: each is used, dropped for a reason, or told as a problem."""

import re

import numpy as np
import pytest
from bert_source import bert_weights
from safetensors.numpy import save_file
from source_values import random

from trtllm_ext.checkpoint.convert.pieces import Piece, rows
from trtllm_ext.checkpoint.convert.source import SourceWeights
from trtllm_ext.checkpoint.safetensors_file import SafetensorsFile
from trtllm_ext.cli import main as cli
from trtllm_ext.errors import CheckpointError

BUDGET_S = 1


@pytest.fixture
def ledger(tmp_path):
    """make(weights, prefix) -> SourceWeights over a file of them, named without the prefix."""

    def make(weights, prefix=""):
        save_file(weights, tmp_path / "model.safetensors")
        file = SafetensorsFile(tmp_path / "model.safetensors")
        return SourceWeights(tmp_path, file, {name: name.removeprefix(prefix) for name in file})

    return make


def refusal(source):
    with pytest.raises(CheckpointError) as caught:
        source.finish()
    return str(caught.value)


def test_a_fused_weight_is_used_by_two(ledger):
    fused = random((12, 4))
    source = ledger({"model.gate_up": fused}, "model.")
    for index in (0, 1):
        (view,) = source.use(Piece("gate_up", (12, 4)).half(index))
        assert view.source == "model.gate_up"
        np.testing.assert_array_equal(view.values(), fused[6 * index : 6 * index + 6])
    source.finish()


def test_half_of_a_fused_weight_unused(ledger):
    source = ledger({"m.gate_up": random((12, 4)), "m.pairs": random((2, 6)), "m.tied": random((3,))}, "m.")
    source.use(Piece("gate_up", (12, 4)).half(0))
    source.use(Piece("pairs", (2, 6)).every_second(0))
    source.use(Piece("tied", (3,)))
    source.use(Piece("tied", (3,)))
    text = refusal(source)
    assert "2 problem(s): [6:12, :] of m.gate_up is not used; [:, 1:6:2] of m.pairs is not used." in text


def test_the_rest_of_a_weight_is_dropped_for_a_reason(ledger):
    source = ledger({"gate_up": random((12, 4)), "other": random((2,))})
    source.use(Piece("gate_up", (12, 4)).half(0))
    source.drop("gate_up", "no gate here")
    source.drop_matching(r"gate.*|oth", "does not fit all of it")
    assert "1 problem(s): other is not used by this architecture" in refusal(source)
    source.drop_matching(r"oth.*", "attention is no part of the stack")
    source.finish()
    dropped = [(weight.name, weight.reason) for weight in source.dropped]
    assert dropped == [("gate_up[6:12, :]", "no gate here"), ("other", "attention is no part of the stack")]


def test_everything_wrong_is_listed_once(ledger):
    weights = {"m.a": random((2, 3)), "m.int": np.zeros((2, 3), np.uint8), "m.mlp.fc_.bias": random((3,))}
    source = ledger(weights, "m.")
    for _ in range(2):
        assert source.use(rows(Piece("a", (3, 2)), Piece("a", (3, 2)))) == ()
        assert source.use(Piece("int", (2, 3))) == ()
        assert source.use(Piece("mlp.fc.bias", (3,))) == ()
    text = refusal(source)
    assert "4 problem(s)" in text
    assert "mlp.fc.bias (3,) is missing (Did you mean mlp.fc_.bias?)" in text
    assert "m.a has shape (2, 3), the config calls for (3, 2)" in text
    assert "m.int has the type uint8, not a float type; a quantised model has to be dequantised first" in text
    assert "m.mlp.fc_.bias is not used by this architecture" in text


def test_long_lists_are_cut(ledger):
    source = ledger({f"w{index}": np.zeros(1, np.float32) for index in range(30)})
    assert re.search(
        r"30 problem\(s\): w0 is not used.*; and 10 more\. Nothing was written\.", refusal(source)
    )


def test_dropped_weights_are_told_by_reason(bert_folder, tmp_path, capsys):
    heads = {f"cls.{index}": np.zeros(2, np.float32) for index in range(5)}
    folder = bert_folder({"architectures": ["BertForMaskedLM"]}, weights={**bert_weights(), **heads})
    assert cli.main(["convert", "--model_dir", str(folder), "--output_dir", str(tmp_path / "c")]) == 0
    told = [line.strip() for line in capsys.readouterr().out.splitlines() if "not used: " in line]
    assert told[0] == "not used: embeddings.position_ids (checked to be 0, 1, 2, ...)"
    assert any(
        line.startswith("not used: 5 weights: cls.0, cls.1, cls.2, ... (a head for training") for line in told
    )
    assert any(
        line.startswith("not used: pooler.dense.bias, pooler.dense.weight (the model pools") for line in told
    )
    assert len(told) == 3
