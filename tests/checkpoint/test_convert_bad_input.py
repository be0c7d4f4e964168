"""Sources that cannot be converted exactly: refused, with everything that is wrong, and nothing written."""

import json
import struct

import numpy as np
import pytest
from bert_source import MODULES, bert_weights

from trtllm_ext.checkpoint import convert
from trtllm_ext.errors import CheckpointError, ConfigError

BUDGET_S = 15


def refused(folder, output, message, **arguments):
    with pytest.raises(CheckpointError, match=message) as caught:
        convert(folder, output, **arguments)
    assert not output.exists()
    assert [entry.name for entry in output.parent.iterdir() if entry.name.startswith(".")] == []
    return str(caught.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architectures": ["BertModell"]}, r"'BertModell' is not supported\. Did you mean BertModel "),
        (
            {"architectures": ["DebertaV2Model"]},
            r"'DebertaV2Model' is not supported\. Did you mean .+ of the types .*bert, .*llama, ",
        ),
        ({"architectures": []}, r"architectures=\[\], expected a list of one name"),
        ({"architectures": None}, r"has no architectures, so it does not say which model this is"),
        ({"architectures": [["BertModel"]]}, r"is not supported"),
        (
            {"hidden_act": "gelu_newest"},
            r"hidden_act='gelu_newest' is not known\. Did you mean gelu_new \(gelu_tanh\)",
        ),
        ({"hidden_act": ["gelu"]}, r"hidden_act=\['gelu'\] is not known"),
        (
            {"position_embedding_type": "relative_key"},
            r"'relative_key' is not supported; expected 'absolute'",
        ),
        ({"is_decoder": True}, r"is_decoder=True is not supported; expected False"),
        ({"auto_map": {"AutoModel": "m.M"}}, r"auto_map=.* is not supported"),
        ({"quantization_config": {"bits": 4}}, r"quantization_config=.* are not read"),
        ({"pruned_heads": {"0": [1]}}, r"pruned_heads=.* is not supported"),
        ({"alibi_bias_max": 8}, r"the unknown field alibi_bias_max=8.* may change the maths"),
        ({"num_hiden_layers": 2}, r"unknown field num_hiden_layers=2. Did you mean num_hidden_layers"),
        ({"num_hidden_layers": 0}, r"num_hidden_layers=0 is not a positive integer"),
        ({"hidden_size": 8.0}, r"hidden_size=8.0 is not a positive integer"),
        ({"num_attention_heads": 3}, r"hidden_size=8 does not split over num_attention_heads=3"),
        ({"layer_norm_eps": "tiny"}, r"layer_norm_eps='tiny' is not a number"),
    ],
)
def test_configs(bert_folder, tmp_path, config, message):
    refused(bert_folder(config), tmp_path / "c", message)


def test_wrong_kinds_of_sources(bert_folder, tmp_path, monkeypatch):
    convert(bert_folder(), tmp_path / "checkpoint")
    refused(
        tmp_path / "checkpoint",
        tmp_path / "c",
        r"is a checkpoint directory, converted already. Build its engine",
    )
    engine = tmp_path / "engine"
    engine.mkdir()
    (engine / "config.json").write_text('{"pretrained_config": {}, "build_config": {}}')
    refused(
        engine,
        tmp_path / "c",
        r"engine is an engine directory, built already. Run it: trtllm-ext run --engine_dir",
    )
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", tmp_path / "c", r"is a file; expected the model's folder, with config.json")
    text = refused(tmp_path / "none", tmp_path / "c", r"The model folder .*none does not exist\.$")
    assert "hub" not in text
    monkeypatch.chdir(tmp_path)
    message = (
        r"org/name-v2 does not exist. Names of models on a hub are not looked up; download .* local folder"
    )
    refused("org/name-v2", tmp_path / "c", message)


def test_weights_that_are_missing_unused_or_misshapen_are_all_listed(bert_folder, tmp_path):
    weights = bert_weights()
    weights["encoder.layer.0.intermediate.dense_.bias"] = weights.pop(
        "encoder.layer.0.intermediate.dense.bias"
    )
    weights["encoder.layer.1.output.dense.weight"] = np.zeros((12, 8), np.float32)
    weights["encoder.layer.2.output.dense.bias"] = np.zeros(8, np.float32)
    text = refused(bert_folder(weights=weights), tmp_path / "c", r"4 problem\(s\)")
    assert "encoder.layer.0.intermediate.dense.bias (12,) is missing" in text
    assert "encoder.layer.1.output.dense.weight has shape (12, 8), the config calls for (8, 12)" in text
    assert "encoder.layer.2.output.dense.bias is not used by this architecture" in text
    assert "encoder.layer.0.intermediate.dense_.bias is not used" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embeddings.position_ids": np.arange(10)[None] + 2}, r"position_ids is not 0, 1, 2"),
        ({"embeddings.position_ids": np.arange(9)[None]}, r"position_ids is not 0, 1, 2"),
        ({"embeddings.token_type_ids": np.ones((1, 10), np.int64)}, r"token_type_ids is not all zeros"),
        ({"bert.pooler.dense.bias": np.zeros(8, np.float32)}, r"are the same weight under two names"),
        ({"embeddings.LayerNorm.gamma": np.zeros(8, np.float32)}, r"are the same weight under two names"),
        (
            {"encoder.layer.0.output.dense.bias": np.zeros(8, np.int32)},
            r"has the type int32, not a float type",
        ),
        ({"cls.predictions.bias": np.zeros(20, np.float32)}, r"cls.predictions.bias is not used"),
    ],
)
def test_weights(bert_folder, tmp_path, change, message):
    folder = bert_folder(weights={**bert_weights(), **change}, modules=None)
    refused(folder, tmp_path / "c", message, dtype="float32")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_is_refused_unless_allowed(bert_folder, tmp_path, value):
    weights = bert_weights()
    weights["encoder.layer.1.attention.self.key.weight"][3, 4] = value
    folder = bert_folder(weights=weights)
    refused(folder, tmp_path / "c", r"layer.1.attention.self.key.weight holds NaN or infinity.*--allow_nan")
    convert(folder, tmp_path / "c", allow_nan=True)


def test_nan_in_what_is_dropped_does_not_matter(bert_folder, tmp_path):
    weights = bert_weights()
    weights["pooler.dense.bias"][0] = np.nan
    convert(bert_folder(weights=weights), tmp_path / "c")


@pytest.mark.parametrize(("dtype", "value"), [("float16", 70000.0), ("bfloat16", 3.4e38)])
def test_values_beyond_a_narrow_type_are_refused(bert_folder, tmp_path, dtype, value):
    weights = bert_weights()
    weights["encoder.layer.0.output.dense.weight"][0, 0] = value
    message = rf"layer.0.output.dense.weight: .* does not fit into {dtype} .*Use a type with a wider range"
    refused(bert_folder(weights=weights), tmp_path / "c", message, dtype=dtype)


def test_mixed_types_need_a_choice(bert_folder, tmp_path):
    weights = bert_weights()
    name = "encoder.layer.0.output.dense.bias"
    weights[name] = weights[name].astype(np.float16)
    folder = bert_folder(weights=weights)
    refused(folder, tmp_path / "c", r"the type\(s\) float16, float32, so dtype 'auto' is not clear")
    with pytest.raises(ConfigError, match=r"dtype='fp16' is not a weight type"):
        convert(folder, tmp_path / "c", dtype="fp16")


@pytest.mark.parametrize(
    ("pooling", "message"),
    [
        (
            {"pooling_mode_max_tokens": True},
            r"by pooling_mode_mean_tokens and pooling_mode_max_tokens is not",
        ),
        ({"pooling_mode_mean_tokens": False}, r"pooling by nothing is not supported"),
        (
            {"pooling_mode_mean_tokens": False, "pooling_mode_lasttoken": True},
            r"by pooling_mode_lasttoken is not",
        ),
        ({"pooling_mode_attention": True}, r"unknown field pooling_mode_attention=True"),
        ({"word_embedding_dimension": 9}, r"word_embedding_dimension=9, but the model's hidden_size is 8"),
    ],
)
def test_poolings(bert_folder, tmp_path, pooling, message):
    refused(bert_folder(pooling=pooling), tmp_path / "c", message)


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        (
            [*MODULES, {"type": "sentence_transformers.models.Dense", "path": "3"}],
            r"models.Dense' is not supported",
        ),
        ([MODULES[0], MODULES[2]], r"Transformer, Normalize are not supported in this order"),
        ([], r"modules \(none\) are not supported"),
        ({"a": 1}, r"does not hold a list of modules"),
        (
            [MODULES[0], {**MODULES[1], "path": "../1_Pooling"}],
            r"'../1_Pooling' of the Pooling module is not a folder",
        ),
        ([MODULES[0], {**MODULES[1], "path": "2_Pooling"}], r"2_Pooling/config.json does not exist"),
    ],
)
def test_modules(bert_folder, tmp_path, modules, message):
    refused(bert_folder(modules=modules), tmp_path / "c", message)


@pytest.mark.parametrize(
    ("file", "fields", "message"),
    [
        ("sentence_bert_config.json", {"max_seq_length": 0}, r"max_seq_length=0 is not a positive integer"),
        (
            "sentence_bert_config.json",
            {"max_seq_length": "6"},
            r"max_seq_length='6' is not a positive integer",
        ),
        ("sentence_bert_config.json", {"do_lower_case": True}, r"do_lower_case=True is not supported"),
        ("tokenizer_config.json", {"model_max_length": -1}, r"model_max_length=-1 is not a positive integer"),
        ("tokenizer_config.json", [], r"tokenizer_config.json"),
    ],
)
def test_token_limits(bert_folder, tmp_path, file, fields, message):
    folder = bert_folder()
    (folder / file).write_text(json.dumps(fields))
    refused(folder, tmp_path / "c", message)


def test_a_masked_language_model_alone_is_not_an_encoder(bert_folder, tmp_path):
    folder = bert_folder({"architectures": ["BertForMaskedLM"]}, modules=None)
    refused(folder, tmp_path / "c", r"a BertForMaskedLM ends in a head that the encoder does not have")


def test_missing_files(bert_folder, tmp_path):
    refused(tmp_path / "nowhere", tmp_path / "c", r"The model folder .*nowhere does not exist")
    folder = bert_folder()
    (folder / "model.safetensors").unlink()
    refused(
        folder,
        tmp_path / "c",
        r"holds no weights: none of model.safetensors, .*, pytorch_model.bin.index.json is there",
    )
    (folder / "config.json").unlink()
    refused(folder, tmp_path / "c", r"config.json does not exist")


def test_an_index_that_disagrees_with_its_files(bert_folder, tmp_path):
    folder = bert_folder()
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"pooler.dense.bias": "part.safetensors"}}))
    refused(
        folder,
        tmp_path / "c",
        r"index.json and its files disagree: part.safetensors holds 39 that are not listed",
    )
    index.write_text(json.dumps({"weight_map": {"pooler.dense.bias": "../part.safetensors"}}))
    refused(folder, tmp_path / "c", r"points outside its folder")
    index.write_text(json.dumps({"weight_map": 1}))
    refused(folder, tmp_path / "c", r"has no weight_map")


def test_a_torch_file_that_runs_code_is_refused(bert_folder, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    folder = bert_folder()
    (folder / "model.safetensors").unlink()
    torch.save({"a": _Evil()}, folder / "pytorch_model.bin")
    refused(folder, tmp_path / "c", r"pytorch_model.bin cannot be read as a dict of tensors")
    assert not (tmp_path / "evil").exists()


class _Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code from a weight file ran')",))


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, 4, r"damaged"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, 8, r"damaged"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, 8, r"damaged"),
        ({"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}, 4, r"damaged"),
        (
            {"a": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}},
            4,
            r"type F8_E4M3: the model is quantised",
        ),
        ({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, 4, r"damaged"),
        ({"a": 1}, 0, r"damaged"),
    ],
)
def test_weight_files_with_a_wrong_header(bert_folder, tmp_path, header, data, message):
    folder = bert_folder()
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(data))
    refused(folder, tmp_path / "c", message)
