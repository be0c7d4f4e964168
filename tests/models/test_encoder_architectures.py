"""Whole encoders of each architecture against transformers' own models: random weights, padded batches."""

import json

import numpy as np
import pytest
from sampling import covered

import trtllm_ext as tx
from trtllm_ext.checkpoint import convert
from trtllm_ext.errors import ConfigError
from trtllm_ext.models import model_from_checkpoint

BUDGET_S = 10

torch = pytest.importorskip("torch", reason="torch is not installed")
hf = pytest.importorskip("transformers", reason="transformers is not installed")

VOCAB, HIDDEN, FFN, HEADS, LAYERS, POSITIONS = 60, 32, 72, 4, 2, 24
# Largest error as a share of the largest value. bfloat16: four roundings of half a unit in 2^-8 a residual block, and
# a norm after each that passes them on.
LIMIT = {"float32": 1e-5, "bfloat16": 3e-2}
BERT_FIELDS = {
    "hidden_size": HIDDEN,
    "intermediate_size": FFN,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "hidden_act": "gelu",
}
DISTIL_FIELDS = {"dim": HIDDEN, "hidden_dim": FFN, "n_heads": HEADS, "n_layers": LAYERS, "activation": "gelu"}
# Prefix of the classes -> fields of its config.
MODELS = {
    "Bert": {**BERT_FIELDS, "layer_norm_eps": 1e-3},
    "Roberta": {**BERT_FIELDS, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
    "XLMRoberta": {**BERT_FIELDS, "type_vocab_size": 1, "hidden_act": "gelu_new"},
    "Camembert": {**BERT_FIELDS, "type_vocab_size": 2, "pad_token_id": 5},
    "DistilBert": DISTIL_FIELDS,
}
OFFSETS = {"Bert": 0, "Roberta": 2, "XLMRoberta": 2, "Camembert": 6, "DistilBert": 0}
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]


def saved_model(name, folder, dtype="float32", head="Model", **changes):
    """A model with random weights, biases and norms too, in float32 with values that `dtype` holds; saved in dtype."""
    torch.manual_seed(0)
    fields = {"vocab_size": VOCAB, "max_position_embeddings": POSITIONS, **MODELS[name], **changes}
    model = getattr(hf, name + head)(getattr(hf, f"{name}Config")(**fields)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            spread = 1 / parameter.shape[-1] ** 0.5 if parameter.ndim > 1 else 0.2
            parameter.copy_(torch.randn_like(parameter) * spread + (parameter if parameter.ndim == 1 else 0))
    model = model.to(getattr(torch, dtype))
    model.save_pretrained(folder)
    return model.float()


def sentences(model, batch=3, seq=11):
    """Ids and mask, with the padding token behind shorter sentences and nowhere else."""
    padding = model.config.pad_token_id
    rng = np.random.default_rng(7)
    ids = rng.choice([token for token in range(VOCAB) if token != padding], (batch, seq)).astype(np.int32)
    mask = np.ones((batch, seq), np.int32)
    for row in range(1, batch):
        mask[row, seq - 3 * row :] = 0
    types = getattr(model.config, "type_vocab_size", 1)
    inputs = {"input_ids": np.where(mask, ids, padding).astype(np.int32), "attention_mask": mask}
    return inputs, rng.integers(0, types, ids.shape).astype(np.int32)


def session_of(folder, max_input_len=POSITIONS // 2):
    model = model_from_checkpoint(folder)
    build = tx.BuildConfig(max_batch_size=4, max_input_len=max_input_len)
    return tx.Session.from_serialized_engine(tx.build(model, build).engine)


def assert_close(got, reference, dtype):
    assert got.shape == reference.shape
    error = np.abs(got.astype(np.float64) - reference).max() / np.abs(reference).max()
    assert error <= LIMIT[dtype], f"{dtype}: relative error {error:.2g}"


@covered(dtype=["float32", "bfloat16"], name=MODELS)
def test_same_numbers_as_transformers(name, dtype, tmp_path):
    model = saved_model(name, tmp_path / "hf", dtype)
    config = convert(tmp_path / "hf", tmp_path / "c").config
    has_types = name != "DistilBert"
    assert (config.dtype, config.contract.embedding.token_type) == (dtype, has_types)
    assert config.contract.pooling.kind == ("pooler" if has_types else "none")
    inputs, types = sentences(model)
    if has_types:
        inputs["token_type_ids"] = types
    with torch.no_grad():
        reference = model(**{key: torch.from_numpy(value).long() for key, value in inputs.items()})
    with session_of(tmp_path / "c") as session:
        assert {info.name for info in session.inputs} == set(inputs)
        got = session.run(inputs)
    real = inputs["attention_mask"] != 0
    assert_close(got["last_hidden_state"][real], reference.last_hidden_state.numpy()[real], dtype)
    if has_types:
        assert_close(got["sentence_embedding"], reference.pooler_output.numpy(), dtype)


@pytest.mark.parametrize("name", ["Bert", "Camembert", "DistilBert"])
def test_positions_are_the_rows_behind_the_offset(name, tmp_path):
    """A sentence of every position that the model has, which reads the table's last row; one more is refused."""
    model = saved_model(name, tmp_path / "hf")
    config = convert(tmp_path / "hf", tmp_path / "c").config
    positions = POSITIONS - OFFSETS[name]
    assert (config.contract.embedding.position_offset, config.num_positions) == (OFFSETS[name], positions)
    inputs, _ = sentences(model, batch=1, seq=positions)
    with torch.no_grad():
        reference = model(**{key: torch.from_numpy(value).long() for key, value in inputs.items()})
    if name != "DistilBert":
        inputs["token_type_ids"] = np.zeros_like(inputs["input_ids"])
    with session_of(tmp_path / "c", positions) as session:
        got = session.run(inputs)["last_hidden_state"]
    assert_close(got, reference.last_hidden_state.numpy(), "float32")
    with pytest.raises(
        ConfigError, match=rf"max_input_len={positions + 1} is more than the {positions} positions"
    ):
        session_of(tmp_path / "c", positions + 1)


@pytest.mark.parametrize("name", ["Roberta", "DistilBert"])
def test_a_sentence_transformers_folder(name, tmp_path):
    """Saved with its head for training: mean pooling, and the limit that the tokenizer says, within the positions."""
    folder = tmp_path / "hf"
    model = saved_model(name, folder, head="ForMaskedLM")
    (folder / "modules.json").write_text(json.dumps(MODULES))
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": HIDDEN, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 512}))
    report = convert(folder, tmp_path / "c")
    assert report.config.contract.pooling.max_seq_length == POSITIONS - OFFSETS[name]
    heads = {weight.name for weight in report.dropped if "a head for training" in weight.reason}
    assert heads and all(head.startswith(("lm_head.", "vocab_")) for head in heads)
    inputs, _ = sentences(model)
    with torch.no_grad():
        encoder = getattr(model, model.base_model_prefix)
        hidden = encoder(**{key: torch.from_numpy(value).long() for key, value in inputs.items()})[0].numpy()
    keep = inputs["attention_mask"][..., None]
    if name != "DistilBert":
        inputs["token_type_ids"] = np.zeros_like(inputs["input_ids"])
    with session_of(tmp_path / "c") as session:
        got = session.run(inputs)["sentence_embedding"]
    assert_close(got, (hidden * keep).sum(1) / keep.sum(1), "float32")
