"""Files that mislead: up before gate, one tensor for two layers, biases that are missing or too many."""

from dataclasses import replace
from functools import partial
from typing import ClassVar

import numpy as np
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from stack_against_transformers import TOKENS, Case, check, saved_model

from trtllm_ext.checkpoint import convert, load_checkpoint
from trtllm_ext.checkpoint.convert.architectures.llama import PHI3
from trtllm_ext.checkpoint.convert.architectures.spec import half
from trtllm_ext.checkpoint.convert.planners import PLANNERS
from trtllm_ext.checkpoint.convert.stack import plan_stack
from trtllm_ext.errors import CheckpointError

BUDGET_S = 4

SIZES = {
    "vocab_size": 50,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
LLAMA = Case(name="Llama", config=hf.LlamaConfig(**SIZES, mlp_bias=True), model=hf.LlamaForCausalLM)
PHI = Case(name="Phi3", config=hf.Phi3Config(**SIZES), model=hf.Phi3ForCausalLM)


class UpFirst(hf.Phi3ForCausalLM):
    """Saved with the halves of its fused matrices the other way round."""

    def save_pretrained(self, folder, **options):
        super().save_pretrained(folder, **options)
        weights = load_file(folder / "model.safetensors")
        for name, values in weights.items():
            if "gate_up_proj" in name:
                weights[name] = torch.cat(values.chunk(2)[::-1])
        save_file(weights, folder / "model.safetensors")


UP_FIRST = replace(PHI, model=UpFirst, changed_config={"architectures": ["Phi3ForCausalLM"]})


def read_up_first(config, layers):
    halves = {"mlp.fc": half("mlp.gate_up_proj", 1), "mlp.gate": half("mlp.gate_up_proj", 0)}
    form = PHI3.read(config, layers)
    return replace(form, weights={**form.weights, **halves})


@pytest.mark.parametrize("stored", [PHI, UP_FIRST], ids=["gate first", "up first"])
@pytest.mark.parametrize("read", [PHI3.read, read_up_first], ids=["gate first", "up first"])
def test_the_order_of_gate_and_up_matters(monkeypatch, tmp_path, stored, read):
    monkeypatch.setitem(PLANNERS, "Phi3ForCausalLM", partial(plan_stack, (replace(PHI3, read=read),)))
    if (stored is UP_FIRST) == (read is read_up_first):
        check(stored, tmp_path, "float32")
    else:
        with pytest.raises(AssertionError, match="Phi3 float32: relative error"):
            check(stored, tmp_path, "float32")


def test_slices_of_a_fused_matrix_add_up_to_the_sublayer(tmp_path):
    """Rows of fc and gate and columns of proj, by rank: the order of rows is the same in all three."""
    model = saved_model(PHI, tmp_path / "model", "float32")
    convert(tmp_path / "model", tmp_path / "checkpoint")
    weights = load_checkpoint(tmp_path / "checkpoint").weights
    names = (f"transformer.layers.1.mlp.{name}.weight" for name in ("fc", "gate", "proj"))
    fc, gate, proj = (weights[name].astype(np.float64) for name in names)
    x = np.random.default_rng(0).normal(size=(TOKENS, SIZES["hidden_size"])).astype(np.float32)
    with torch.no_grad():
        expected = model.model.layers[1].mlp(torch.from_numpy(x)).numpy()

    def sublayer(fc, gate, proj):
        inner = x @ fc.T
        return (inner / (1 + np.exp(-inner)) * (x @ gate.T)) @ proj.T

    ranks = zip(np.split(fc, 2), np.split(gate, 2), np.split(proj, 2, axis=1), strict=True)
    parts = [sublayer(*rank) for rank in ranks]
    np.testing.assert_allclose(sum(parts), sublayer(fc, gate, proj), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(sum(parts), expected, rtol=1e-4, atol=1e-5)
    assert np.abs(parts[0] - expected).max() > 0.1

    # The fused matrix itself, cut in two, has all of the gate on one rank.
    fused = model.model.layers[1].mlp.gate_up_proj.weight.detach().double().numpy()
    np.testing.assert_array_equal(np.concatenate([fc, gate]), fused)
    cut = [np.split(half, 2) for half in np.split(fused, 2)]
    wrong = sum(sublayer(*half, part) for half, part in zip(cut, np.split(proj, 2, axis=1), strict=True))
    assert np.abs(wrong - expected).max() > 0.1


def one_tensor(model):
    """The second layer's second matrix, its bias too, are the first one's."""
    model.model.layers[1].mlp.down_proj = model.model.layers[0].mlp.down_proj


class InATorchFile(hf.LlamaForCausalLM):
    """Saved as models were before safetensors: a tensor under each of its names."""

    def save_pretrained(self, folder, **options):
        self.config.architectures = ["LlamaForCausalLM"]
        self.config.save_pretrained(folder)
        torch.save(self.state_dict(), folder / "pytorch_model.bin")


def test_one_tensor_under_two_names_is_each_layers(tmp_path):
    check(replace(LLAMA, model=InATorchFile, prepare=one_tensor), tmp_path, "float32")


class Tied(hf.LlamaForCausalLM):
    """Says which weights are one tensor, so that save_pretrained stores it once."""

    _tied_weights_keys: ClassVar[dict[str, str]] = {
        f"model.layers.1.mlp.down_proj.{leaf}": f"model.layers.0.mlp.down_proj.{leaf}"
        for leaf in ("weight", "bias")
    }


def test_a_tensor_that_was_stored_once_for_two_layers_is_missing(tmp_path):
    case = replace(LLAMA, model=Tied, prepare=one_tensor)
    case.changed_config = {"architectures": ["LlamaForCausalLM"]}
    saved_model(case, tmp_path / "model", "float32")
    place = r"model\.layers\.1\.mlp\.down_proj"
    message = rf"2 problem\(s\): {place}\.weight \(24, 40\) is missing; {place}\.bias \(24,\) is missing"
    with pytest.raises(CheckpointError, match=message):
        convert(tmp_path / "model", tmp_path / "checkpoint")


@pytest.mark.parametrize("missing", ["gate_proj", "up_proj", "down_proj"])
def test_a_bias_that_the_config_promises(tmp_path, missing):
    saved_model(LLAMA, tmp_path / "model", "float32")
    path = tmp_path / "model" / "model.safetensors"
    weights = load_file(path)
    del weights[f"model.layers.1.mlp.{missing}.bias"]
    save_file(weights, path)
    with pytest.raises(
        CheckpointError, match=rf"1 problem\(s\): model\.layers\.1\.mlp\.{missing}\.bias \(\d+,\) is missing"
    ):
        convert(tmp_path / "model", tmp_path / "checkpoint")


def test_biases_that_the_config_denies(tmp_path):
    saved_model(replace(LLAMA, changed_config={"mlp_bias": False}), tmp_path / "model", "float32")
    with pytest.raises(CheckpointError, match=r"0\.mlp\.down_proj\.bias is not used"):
        convert(tmp_path / "model", tmp_path / "checkpoint")
