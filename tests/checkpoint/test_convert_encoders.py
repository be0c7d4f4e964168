"""RoBERTa's kin and DistilBERT: names, heads, fields, and what is refused."""

import json

import numpy as np
import pytest
from bert_source import CONFIG, bert_shapes
from safetensors.numpy import save_file

from trtllm_ext.checkpoint import convert, load_checkpoint
from trtllm_ext.errors import CheckpointError

BUDGET_S = 3

TRAINING = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "initializer_range": 0.02}
# Fields as the published models have them; the sizes are small.
ROBERTA = {
    **CONFIG,
    **TRAINING,
    "architectures": ["RobertaModel"],
    "model_type": "roberta",
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
    "gradient_checkpointing": False,
    "layer_norm_eps": 1e-05,
    "type_vocab_size": 1,
    "use_cache": True,
}
XLM_ROBERTA = {
    **ROBERTA,
    "architectures": ["XLMRobertaModel"],
    "model_type": "xlm-roberta",
    "output_past": True,
}
DISTILBERT = {
    "activation": "gelu",
    "architectures": ["DistilBertModel"],
    "attention_dropout": 0.1,
    "dim": 8,
    "dropout": 0.1,
    "hidden_dim": 12,
    "initializer_range": 0.02,
    "max_position_embeddings": 10,
    "model_type": "distilbert",
    "n_heads": 2,
    "n_layers": 2,
    "pad_token_id": 0,
    "qa_dropout": 0.1,
    "seq_classif_dropout": 0.2,
    "sinusoidal_pos_embds": True,
    "tie_weights_": True,
    "transformers_version": "4.8.2",
    "vocab_size": 20,
}
# DistilBERT's name of each of BERT's.
NEW_NAMES = {
    "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin",
    "attention.output.LayerNorm": "sa_layer_norm",
    "intermediate.dense": "ffn.lin1",
    "output.dense": "ffn.lin2",
    "output.LayerNorm": "output_layer_norm",
    "encoder.layer": "transformer.layer",
}


def weights_of(config):
    """Random weights under the names that the model of this config has."""
    rng = np.random.default_rng(1)
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in bert_shapes().items()}
    table = "embeddings.token_type_embeddings.weight"
    if config["model_type"] != "distilbert":
        return {**weights, table: weights[table][: config["type_vocab_size"]]}
    for old, new in NEW_NAMES.items():
        weights = {name.replace(old, new): value for name, value in weights.items()}
    return {name: value for name, value in weights.items() if name != table and not name.startswith("pooler")}


def folder_of(path, config, weights=None):
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    save_file(weights_of(config) if weights is None else weights, path / "model.safetensors")
    return path


@pytest.mark.parametrize("config", [ROBERTA, XLM_ROBERTA, {**ROBERTA, "architectures": ["CamembertModel"]}])
def test_roberta_is_bert_with_positions_behind_padding_s(config, tmp_path):
    report = convert(folder_of(tmp_path / "m", config), tmp_path / "c")
    embedding = report.config.contract.embedding
    assert (embedding.position_offset, embedding.token_type, embedding.norm.eps) == (2, True, 1e-5)
    assert (report.config.type_vocab_size, report.config.num_positions) == (1, 8)
    assert report.config.contract.pooling.kind == "pooler"
    bert = {**config, "architectures": ["BertModel"]}
    convert(folder_of(tmp_path / "bert", bert), tmp_path / "b")
    ours, theirs = (load_checkpoint(tmp_path / name).weights for name in ("c", "b"))
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_distilbert_is_bert_under_other_names(tmp_path):
    report = convert(folder_of(tmp_path / "m", DISTILBERT), tmp_path / "c")
    contract = report.config.contract
    assert (contract.embedding.token_type, report.config.type_vocab_size) == (False, None)
    assert contract.embedding.norm.eps == contract.feed_forward.residual.norm.eps == 1e-12
    assert (contract.feed_forward.activation, contract.pooling.kind) == ("gelu_erf", "none")
    convert(folder_of(tmp_path / "bert", ROBERTA), tmp_path / "b")
    ours, theirs = (load_checkpoint(tmp_path / name).weights for name in ("c", "b"))
    assert theirs.keys() - ours.keys() == {
        "transformer.embedding.token_embedding.weight",
        "transformer.pooler.dense.weight",
        "transformer.pooler.dense.bias",
    }
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("config", "prefix", "buffers"),
    [
        (ROBERTA, "roberta.", {"position_ids": np.arange(10), "token_type_ids": np.zeros(10, np.int64)}),
        ({**ROBERTA, "architectures": ["CamembertModel"]}, "roberta.", {}),
        (DISTILBERT, "distilbert.", {"position_ids": np.arange(10)}),
    ],
)
def test_prefixes_and_index_tables(config, prefix, buffers, tmp_path):
    weights = {prefix + name: value for name, value in weights_of(config).items()}
    weights |= {f"{prefix}embeddings.{name}": value[None] for name, value in buffers.items()}
    report = convert(folder_of(tmp_path / "m", config, weights), tmp_path / "c")
    assert {weight.name for weight in report.dropped} == {f"{prefix}embeddings.{name}" for name in buffers}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {**ROBERTA, "architectures": ["RobertaForMaskedLM"]},
            r"a RobertaForMaskedLM ends in a head .* \(with modules.json\), or saved as RobertaModel, can it be",
        ),
        (
            {**DISTILBERT, "architectures": ["DistilBertForMaskedLM"]},
            r"a DistilBertForMaskedLM ends in a head .* or saved as DistilBertModel",
        ),
        ({**ROBERTA, "pad_token_id": -1}, r"pad_token_id=-1 is not a token's number"),
        (
            {**ROBERTA, "pad_token_id": 9},
            r"max_position_embeddings=10 leaves no position after position_offset=10",
        ),
        ({**ROBERTA, "is_decoder": True}, r"is_decoder=True is not supported; expected False"),
        ({**DISTILBERT, "n_heads": 3}, r"dim=8 does not split over n_heads=3"),
        ({**DISTILBERT, "activation": "gelu_newest"}, r"activation='gelu_newest' is not known"),
        ({**DISTILBERT, "hidden_size": 8}, r"unknown field hidden_size=8"),
        ({**DISTILBERT, "dim": None}, r"lacks dim, which"),
    ],
)
def test_refusals(config, message, tmp_path):
    with pytest.raises(CheckpointError, match=message):
        convert(folder_of(tmp_path / "m", config), tmp_path / "c")


def test_a_pooler_that_distilbert_does_not_have_is_not_used(tmp_path):
    weights = {**weights_of(DISTILBERT), "pooler.dense.weight": np.zeros((8, 8), np.float32)}
    folder = folder_of(tmp_path / "m", DISTILBERT, weights)
    with pytest.raises(CheckpointError, match=r"pooler.dense.weight is not used by this architecture"):
        convert(folder, tmp_path / "c")
