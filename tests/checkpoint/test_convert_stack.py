"""What of a model becomes a stack: layers, stacks and options chosen, and nothing passed over. Without transformers."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from trtllm_ext.checkpoint import convert, load_checkpoint
from trtllm_ext.checkpoint.convert.stack import chosen_layers
from trtllm_ext.cli import main as cli
from trtllm_ext.errors import CheckpointError

BUDGET_S = 4

LAYERS, HIDDEN, FFN = 4, 8, 12
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": FFN,
    "num_hidden_layers": LAYERS,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
}
ATTENTION = ("self_attn.q_proj.weight", "self_attn.o_proj.weight", "input_layernorm.weight")


def llama_weights(layers=LAYERS):
    rng = np.random.default_rng(0)
    shapes = {"model.embed_tokens.weight": (5, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for i in range(layers):
        layer = f"model.layers.{i}"
        shapes.update({f"{layer}.{name}": (HIDDEN,) for name in ATTENTION})
        shapes[f"{layer}.post_attention_layernorm.weight"] = (HIDDEN,)
        shapes[f"{layer}.mlp.gate_proj.weight"] = shapes[f"{layer}.mlp.up_proj.weight"] = (FFN, HIDDEN)
        shapes[f"{layer}.mlp.down_proj.weight"] = (HIDDEN, FFN)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def llama(tmp_path):
    """make(config changes, weights) -> the model's folder."""

    def make(config=None, weights=None):
        folder = tmp_path / "model"
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps({**CONFIG, **(config or {})}))
        save_file(llama_weights() if weights is None else weights, folder / "model.safetensors")
        return folder

    return make


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        (None, range(4)),
        ("1:3", range(1, 3)),
        (":2", range(2)),
        ("2:", range(2, 4)),
        ("-2:", range(2, 4)),
        (":-3", range(1)),
        ("3", range(3, 4)),
        ("-1", range(3, 4)),
        (" 0 : 4 ", range(4)),
    ],
)
def test_chosen_layers(text, chosen):
    assert chosen_layers(text, 4, Path("model/config.json")) == chosen


@pytest.mark.parametrize("text", ["4", "-5", "2:2", "3:1", "1:5", "9:", "::2", "1,2", "", "all", 3, range(2)])
def test_layers_that_are_not_there_are_refused(text):
    with pytest.raises(CheckpointError, match="layers=") as refusal:
        chosen_layers(text, 4, Path("model/config.json"))
    assert repr(text) in str(refusal.value)


def test_chosen_layers_are_those_of_the_source(llama, tmp_path):
    folder = llama()
    report = convert(folder, tmp_path / "out", layers="1:3")
    checkpoint = load_checkpoint(tmp_path / "out")
    assert checkpoint.config.num_hidden_layers == 2
    assert checkpoint.config.source == "LlamaForCausalLM, layers 1:3"
    source = llama_weights()
    for ours, theirs in ((0, 1), (1, 2)):
        for name, place in (
            ("mlp.fc", "mlp.gate_proj"),
            ("mlp.gate", "mlp.up_proj"),
            ("mlp.proj", "mlp.down_proj"),
            ("post_layernorm", "post_attention_layernorm"),
        ):
            np.testing.assert_array_equal(
                checkpoint.weights[f"transformer.layers.{ours}.{name}.weight"],
                source[f"model.layers.{theirs}.{place}.weight"],
            )
    reasons = {reason: len(names) for reason, names in report.dropped_by_reason().items()}
    assert reasons == {
        "another part of its layer": 2 * 3,
        "of a layer that was not chosen": 2 * 7,
        "not part of a layer": 2,
    }


@pytest.mark.parametrize("layers", [None, "1:3"])
def test_layers_beyond_the_configs_are_listed(llama, tmp_path, layers):
    folder = llama(weights=llama_weights(LAYERS + 1))
    with pytest.raises(CheckpointError, match=r"model\.layers\.4\.mlp\.down_proj\.weight is not used"):
        convert(folder, tmp_path / "out", layers=layers)


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.mlp.gate_proj.lora_A.weight",
        "base_model.model.model.layers.0.mlp.gate_proj.lora_A.weight",
        "model.layers.3.mlp.extra.weight",
        "model.layers.0.mlp.gate_proj.bias",
    ],
)
def test_what_may_change_a_sublayer_is_listed(llama, tmp_path, name):
    folder = llama(weights={**llama_weights(), name: np.zeros(FFN, np.float32)})
    with pytest.raises(CheckpointError, match="1 problem") as refusal:
        convert(folder, tmp_path / "out")
    assert f"{name} is not used by this architecture" in str(refusal.value)
    assert not (tmp_path / "out").exists()


def test_a_missing_and_a_misshapen_weight_are_listed_together(llama, tmp_path):
    weights = llama_weights()
    del weights["model.layers.2.mlp.up_proj.weight"]
    weights["model.layers.1.mlp.down_proj.weight"] = np.zeros((HIDDEN, FFN + 1), np.float32)
    with pytest.raises(CheckpointError, match="2 problem") as refusal:
        convert(llama(weights=weights), tmp_path / "out")
    assert "model.layers.2.mlp.up_proj.weight (12, 8) is missing" in str(refusal.value)
    assert "has shape (8, 13), the config calls for (8, 12)" in str(refusal.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"hidden_act": "silou"}, "hidden_act='silou' is not known.*silu"),
        ({"mlp_biass": True}, r"unknown field mlp_biass=True\. Did you mean mlp_bias"),
        ({"auto_map": {"AutoModel": "modeling_mine.Other"}}, r"auto_map names 'modeling_mine\.Other'"),
        ({"auto_map": ["x"]}, r"auto_map=\['x'\] is not an object"),
        ({"quantization_config": {"quant_method": "awq"}}, "are not read. Dequantise the model first"),
        ({"rms_norm_eps": 0}, "rms_norm_eps=0 is not a number between 0 and 1"),
        ({"architectures": ["LlamaForCausalLMM"]}, "Did you mean LlamaForCausalLM"),
        ({"num_hidden_layers": "4"}, "num_hidden_layers='4' is not a positive integer"),
    ],
)
def test_a_config_that_is_not_understood_is_refused(llama, tmp_path, changes, says):
    with pytest.raises(CheckpointError, match=says):
        convert(llama(changes), tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"stack": "decoder"}, "stack='decoder' is not one of this model's; it has a single stack"),
        ({"stream_dtype": "float16"}, "stream_dtype='float16' is not known"),
        ({"layers": "2:9"}, "layers='2:9' is not within the 4 layers of"),
    ],
)
def test_options_that_do_not_fit_are_refused(llama, tmp_path, options, says):
    with pytest.raises(CheckpointError, match=says):
        convert(llama(), tmp_path / "out", **options)


def test_the_outer_config_of_nested_ones_is_looked_at(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    inner = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1}
    outer = {"architectures": ["CLIPModel"], "model_type": "clip", "text_config": inner}
    save_file({"x": np.zeros(1, np.float32)}, folder / "model.safetensors")
    for extra, says in (
        ({"auto_map": {"AutoModel": "mine.Other"}}, r"auto_map names 'mine\.Other'"),
        (
            {"quantization_config": {"bits": 4}},
            r"quantization_config=\{'bits': 4\}: weights in such a code are not read",
        ),
    ):
        (folder / "config.json").write_text(json.dumps({**outer, **extra}))
        with pytest.raises(CheckpointError, match=says):
            convert(folder, tmp_path / "out")


def test_the_options_on_the_command_line(llama, tmp_path, capsys):
    folder = llama()
    options = ["--layers=-2:", "--attention_input", "--stream_dtype", "float32", "--dtype", "bfloat16"]
    assert (
        cli.main(["convert", "--model_dir", str(folder), "--output_dir", str(tmp_path / "out"), *options])
        == 0
    )
    told = capsys.readouterr().out
    assert "LlamaForCausalLM, layers 2:4 as SublayerStack, 2 layers, hidden 8, bfloat16; 8 weights" in told
    assert "14 weights: model.layers.0." in told and "(of a layer that was not chosen)" in told
    config = load_checkpoint(tmp_path / "out").config
    assert config.contract.attention_input
    assert config.stream_dtype == "float32" and config.dtype == "bfloat16"
    assert config.source == "LlamaForCausalLM, layers 2:4"
