"""The BERT converter: every weight lands where its meaning says, or is dropped for a stated reason."""

import json

import ml_dtypes
import numpy as np
import pytest
from bert_source import MODULES, bert_weights
from safetensors.numpy import save_file

from trtllm_ext.checkpoint import PoolingContract, convert, load_checkpoint
from trtllm_ext.checkpoint.convert.activation_names import ACTIVATION_NAMES

BUDGET_S = 20


def test_every_source_weight_is_in_the_report_once(bert_folder, tmp_path):
    report = convert(bert_folder(), tmp_path / "c")
    used = [name for weight in report.converted for name in weight.sources]
    dropped = [weight.name for weight in report.dropped]
    assert sorted(used + dropped) == sorted(bert_weights())
    assert sorted(dropped) == ["embeddings.position_ids", "pooler.dense.bias", "pooler.dense.weight"]
    reasons = {weight.name: weight.reason for weight in report.dropped}
    assert "pools by 'mean' (modules.json)" in reasons["pooler.dense.weight"]
    assert reasons["embeddings.position_ids"] == "checked to be 0, 1, 2, ..."
    assert report.source_architecture == "BertModel"
    assert report.num_bytes == (tmp_path / "c" / "rank0.safetensors").stat().st_size


def test_weights_land_under_their_names(bert_folder, tmp_path):
    convert(bert_folder(), tmp_path / "c")
    source, got = bert_weights(), load_checkpoint(tmp_path / "c").weights
    layer, ours = "encoder.layer.1.", "transformer.layers.1."
    for leaf in ("weight", "bias"):
        qkv = [source[f"{layer}attention.self.{part}.{leaf}"] for part in ("query", "key", "value")]
        np.testing.assert_array_equal(got[f"{ours}attention.qkv.{leaf}"], np.concatenate(qkv))
        for old, new in {
            "attention.output.dense": "attention.dense",
            "attention.output.LayerNorm": "input_layernorm",
            "intermediate.dense": "mlp.fc",
            "output.dense": "mlp.proj",
            "output.LayerNorm": "post_layernorm",
        }.items():
            np.testing.assert_array_equal(got[f"{ours}{new}.{leaf}"], source[f"{layer}{old}.{leaf}"])
        embedding = got[f"transformer.embedding.embedding_ln.{leaf}"]
        np.testing.assert_array_equal(embedding, source[f"embeddings.LayerNorm.{leaf}"])
    for old, new in {"word": "vocab", "position": "position", "token_type": "token"}.items():
        table = got[f"transformer.embedding.{new}_embedding.weight"]
        np.testing.assert_array_equal(table, source[f"embeddings.{old}_embeddings.weight"])


def test_the_contract_says_what_bert_computes(bert_folder, tmp_path):
    contract = convert(bert_folder(), tmp_path / "c").config.contract
    assert contract.feed_forward.activation == "gelu_erf"
    assert contract.feed_forward.residual.placement == contract.attention.residual.placement == "post"
    assert contract.feed_forward.residual.norm.eps == contract.embedding.norm.eps == 1e-12
    assert contract.pooling == PoolingContract(kind="mean", normalize=True, max_seq_length=None)


def test_prefix_and_old_names(bert_folder, tmp_path):
    old = {
        "bert."
        + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
        for name, v in bert_weights().items()
    }
    report = convert(bert_folder(weights=old), tmp_path / "old")
    convert(bert_folder(), tmp_path / "new")
    a, b = (load_checkpoint(tmp_path / name).weights for name in ("old", "new"))
    assert all(a[name].tobytes() == b[name].tobytes() for name in b)
    assert "bert.embeddings.LayerNorm.gamma" in {
        name for weight in report.converted for name in weight.sources
    }


@pytest.mark.parametrize(("hf", "ours"), ACTIVATION_NAMES.items())
def test_activations(bert_folder, tmp_path, hf, ours):
    assert (
        convert(bert_folder({"hidden_act": hf}), tmp_path / "c").config.contract.feed_forward.activation
        == ours
    )


@pytest.mark.parametrize("hf", ACTIVATION_NAMES)
def test_activation_names_mean_what_transformers_computes(hf):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    activations = pytest.importorskip("transformers.activations", reason="transformers is not installed")
    if hf not in activations.ACT2FN:
        pytest.skip(f"this transformers has no activation {hf!r}")
    x = np.linspace(-4, 4, 33)
    np.testing.assert_allclose(
        activations.ACT2FN[hf](torch.from_numpy(x)).numpy(), _FORMULAS[ACTIVATION_NAMES[hf]](x), atol=1e-12
    )


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _erf(x):
    from math import erf

    return np.vectorize(erf)(x)


_FORMULAS = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu_erf": lambda x: x / 2 * (1 + _erf(x / np.sqrt(2))),
    "gelu_tanh": lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "quick_gelu": lambda x: x * _sigmoid(1.702 * x),
    "silu": lambda x: x * _sigmoid(x),
    "squared_relu": lambda x: np.maximum(x, 0) ** 2,
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "identity": lambda x: x,
}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("source", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_types_are_rounded_once_to_nearest(bert_folder, tmp_path, dtype, source):
    folder = bert_folder(
        weights={n: v if v.dtype == np.int64 else v.astype(source) for n, v in _floats().items()}
    )
    config = convert(folder, tmp_path / "c", dtype=dtype).config
    assert config.dtype == dtype
    wanted = {"bfloat16": ml_dtypes.bfloat16}.get(dtype, dtype)
    got = load_checkpoint(tmp_path / "c").weights["transformer.layers.0.mlp.fc.weight"]
    rounded = _floats()["encoder.layer.0.intermediate.dense.weight"].astype(source).astype(wanted)
    assert got.tobytes() == rounded.tobytes()


def _floats():
    return bert_weights(np.float64)


def test_auto_is_the_type_of_the_source(bert_folder, tmp_path):
    weights = {n: v if v.dtype == np.int64 else v.astype(np.float16) for n, v in bert_weights().items()}
    assert convert(bert_folder(weights=weights), tmp_path / "c").config.dtype == "float16"


def test_pooling_without_sentence_transformers(bert_folder, tmp_path):
    folder = bert_folder(modules=None)
    assert convert(folder, tmp_path / "c").config.contract.pooling == PoolingContract(
        kind="pooler", normalize=False, max_seq_length=None
    )
    assert "transformer.pooler.dense.weight" in load_checkpoint(tmp_path / "c").weights
    weights = {name: v for name, v in bert_weights().items() if not name.startswith("pooler")}
    report = convert(bert_folder(weights=weights, modules=None), tmp_path / "c")
    assert report.config.contract.pooling == PoolingContract(
        kind="none", normalize=False, max_seq_length=None
    )


def test_cls_pooling_and_no_normalize(bert_folder, tmp_path):
    pooling = {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True, "include_prompt": True}
    report = convert(bert_folder(pooling=pooling, modules=MODULES[:2]), tmp_path / "c")
    assert report.config.contract.pooling == PoolingContract(kind="cls", normalize=False, max_seq_length=None)


def test_a_training_head_is_dropped_only_from_a_sentence_model(bert_folder, tmp_path):
    head = {"cls.predictions.bias": np.zeros(20, np.float32)}
    folder = bert_folder({"architectures": ["BertForMaskedLM"]}, weights={**bert_weights(), **head})
    report = convert(folder, tmp_path / "c")
    assert "a head for training" in {w.name: w.reason for w in report.dropped}["cls.predictions.bias"]


def test_sharded_source(bert_folder, tmp_path):
    folder = bert_folder()
    weights = bert_weights()
    names = sorted(weights)
    files = {"model-00001-of-00002.safetensors": names[:20], "model-00002-of-00002.safetensors": names[20:]}
    for file, part in files.items():
        save_file({name: weights[name] for name in part}, folder / file)
    index = {"weight_map": {name: file for file, part in files.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    convert(folder, tmp_path / "one")
    (folder / "model.safetensors").unlink()
    convert(folder, tmp_path / "two")
    one, two = ((tmp_path / name / "rank0.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two


def test_a_torch_file_gives_the_same_checkpoint(bert_folder, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    folder = bert_folder()
    convert(folder, tmp_path / "one", dtype="bfloat16")
    (folder / "model.safetensors").unlink()
    torch.save(
        {name: torch.from_numpy(v) for name, v in bert_weights().items()}, folder / "pytorch_model.bin"
    )
    convert(folder, tmp_path / "two", dtype="bfloat16")
    one, two = ((tmp_path / name / "rank0.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two


def test_the_tokenizer_comes_along(bert_folder, tmp_path):
    folder = bert_folder()
    (folder / "tokenizer.json").write_text("{}")
    convert(folder, tmp_path / "c")
    assert (tmp_path / "c" / "tokenizer.json").read_text() == "{}"
    convert(folder, tmp_path / "c")


def max_seq_length(folder, output):
    return convert(folder, output).config.contract.pooling.max_seq_length


def test_the_token_limit_of_sentence_transformers(bert_folder, tmp_path):
    folder, output = bert_folder(), tmp_path / "c"
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 8}))
    assert max_seq_length(folder, output) == 8
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": int(1e30)}))
    assert max_seq_length(folder, output) == 10, "the model's positions bound it"
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": None}))
    assert max_seq_length(folder, output) == 10
    (folder / "sentence_bert_config.json").write_text(
        json.dumps({"max_seq_length": 6, "do_lower_case": False})
    )
    assert max_seq_length(folder, output) == 6
    assert load_checkpoint(output).config.contract.pooling.max_seq_length == 6


def test_without_sentence_transformers_its_token_limit_does_not_count(bert_folder, tmp_path):
    folder = bert_folder(modules=None)
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 6}))
    assert max_seq_length(folder, tmp_path / "c") is None


def test_the_trained_model(minilm_dir, tmp_path):
    report = convert(minilm_dir, tmp_path / "c")
    checkpoint = load_checkpoint(tmp_path / "c")
    assert checkpoint.config == report.config
    assert (report.config.hidden_size, report.config.num_hidden_layers, report.config.dtype) == (
        384,
        6,
        "float32",
    )
    assert report.config.contract.pooling == PoolingContract(kind="mean", normalize=True, max_seq_length=256)
    # 22.7 million parameters, without the pooler and the position ids
    assert sum(values.size for values in checkpoint.weights.values()) == 22_565_376
