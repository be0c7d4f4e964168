"""The encoder against Hugging Face's BertModel on random weights, and what padding and limits do."""

import dataclasses
import json
from collections import Counter
from functools import cache

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from encoder_formulas import (
    FFN,
    HEADS,
    HIDDEN,
    LAYERS,
    POSITIONS,
    VOCAB,
    formula,
    mean_pooled,
    sentences,
    small_config,
)
from sublayer_formulas import DTYPES, TOLERANCE, assert_close

import trtllm_ext as tx
from trtllm_ext import backend
from trtllm_ext.checkpoint import convert, expected_weights, load_checkpoint
from trtllm_ext.errors import ConfigError, EngineError
from trtllm_ext.lowering import lower
from trtllm_ext.models import (
    Encoder,
    encoder_config,
    model_from_checkpoint,
    model_from_config,
    write_random_checkpoint,
)

BUDGET_S = 15


def tiny_bert(folder, activation="gelu", seed=0, **changes):
    """Save a random BertModel as Hugging Face does; returns it."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(seed)
    fields = {
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": FFN,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "max_position_embeddings": POSITIONS,
        "hidden_act": activation,
        "initializer_range": 0.3,
        "attn_implementation": "eager",
        **changes,
    }
    model = transformers.BertModel(transformers.BertConfig(**fields)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # biases and norms start at 0 and 1, which would hide a mix-up
                parameter += torch.randn_like(parameter) * 0.2
    model.save_pretrained(folder)
    return model


def hugging_face(model, inputs):
    import torch

    with torch.no_grad():
        outputs = model(**{name: torch.from_numpy(value).long() for name, value in inputs.items()})
    return (
        outputs.last_hidden_state.numpy(),
        None if outputs.pooler_output is None else outputs.pooler_output.numpy(),
    )


def session_of(checkpoint, **limits):
    engine = tx.build(
        model_from_checkpoint(checkpoint), tx.BuildConfig(max_batch_size=4, max_input_len=20, **limits)
    )
    return tx.Session.from_serialized_engine(engine.engine)


@pytest.fixture(scope="module")
def random_checkpoint(tmp_path_factory):
    """A checkpoint of random weights for each type, pooling by mean and normalized, without Hugging Face."""
    folder = tmp_path_factory.mktemp("encoder")

    def make(dtype="float32", **pooling):
        name = folder / f"{dtype}-{'-'.join(map(str, pooling.values()))}"
        if not name.exists():
            write_random_checkpoint(name, small_config(dtype, **pooling), seed=2)
        return name

    return make


@pytest.fixture(scope="module")
def random_session(random_checkpoint):
    """A session of each such checkpoint."""
    return cache(lambda dtype: session_of(random_checkpoint(dtype)))


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu", "silu"])
def test_same_numbers_as_hugging_face(tmp_path, activation):
    hf = tiny_bert(tmp_path / "hf", activation)
    convert(tmp_path / "hf", tmp_path / "c")
    inputs = sentences()
    hidden, pooled = hugging_face(hf, inputs)
    got = session_of(tmp_path / "c").run(inputs)
    real = inputs["attention_mask"] != 0
    # Both are float32 with their own order of sums.
    np.testing.assert_allclose(got["last_hidden_state"][real], hidden[real], atol=2e-5)
    np.testing.assert_allclose(got["sentence_embedding"], pooled, atol=2e-5)


def test_without_a_pooler_there_is_only_the_hidden_state(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    hf = tiny_bert(tmp_path / "hf")
    hf.pooler = None
    with torch.no_grad():
        hf.save_pretrained(tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "c")
    assert set(session_of(tmp_path / "c").run(sentences())) == {"last_hidden_state"}


@pytest.mark.parametrize("dtype", DTYPES)
def test_against_the_formulas(random_checkpoint, random_session, dtype):
    checkpoint, inputs = random_checkpoint(dtype), sentences()
    weights = {n: v.astype(np.float64) for n, v in load_checkpoint(checkpoint).weights.items()}
    reference = formula(weights, inputs)
    got = random_session(dtype).run(inputs)
    real = inputs["attention_mask"] != 0
    # Four residual blocks and the embedding, each with a norm that passes the error on.
    assert_close(got["last_hidden_state"][real], reference[real], dtype, factor=5)
    embedding = mean_pooled(reference, inputs["attention_mask"])
    assert got["sentence_embedding"].dtype == np.float32
    assert_close(got["sentence_embedding"], embedding, dtype, factor=5)


@pytest.mark.parametrize(
    "pooling", [{"kind": "cls", "normalize": False}, {"kind": "mean", "normalize": False}]
)
def test_other_poolings(random_checkpoint, pooling):
    checkpoint, inputs = random_checkpoint("float32", **pooling), sentences()
    got = session_of(checkpoint).run(inputs)
    hidden = got["last_hidden_state"]
    wanted = (
        hidden[:, 0] if pooling["kind"] == "cls" else mean_pooled(hidden, inputs["attention_mask"], False)
    )
    np.testing.assert_allclose(got["sentence_embedding"], wanted, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_stands_at_padding_never_changes_a_bit(random_session, dtype):
    session, inputs = random_session(dtype), sentences()
    before = session.run(inputs)
    before = {name: value.copy() for name, value in before.items()}
    padding = inputs["attention_mask"] == 0
    other = {name: value.copy() for name, value in inputs.items()}
    other["input_ids"][padding] = (other["input_ids"][padding] + 17) % VOCAB
    other["token_type_ids"][padding] = 1 - other["token_type_ids"][padding]
    after = session.run(other)
    assert before["sentence_embedding"].tobytes() == after["sentence_embedding"].tobytes()
    assert before["last_hidden_state"][~padding].tobytes() == after["last_hidden_state"][~padding].tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sentence_alone_and_padded_in_a_batch(random_session, dtype):
    session, inputs = random_session(dtype), sentences()
    batch = session.run(inputs)["sentence_embedding"].copy()
    for row, count in enumerate(inputs["attention_mask"].sum(1)):
        alone = session.run({n: np.ascontiguousarray(v[row : row + 1, :count]) for n, v in inputs.items()})
        # Kernels may sum in another order at another size; that is all.
        np.testing.assert_allclose(alone["sentence_embedding"][0], batch[row], atol=5 * TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_of_padding_gives_no_nan(random_session, dtype):
    inputs = sentences()
    inputs["attention_mask"][1] = 0
    got = random_session(dtype).run(inputs)
    assert np.isfinite(got["last_hidden_state"].astype(np.float32)).all()
    assert (got["sentence_embedding"][1] == 0).all()


def test_parameters_are_the_weights_that_a_checkpoint_holds():
    for kind in ("mean", "cls", "pooler", "none"):
        config = small_config(kind=kind, normalize=False)
        parameters = {name: p.shape for name, p in model_from_config(config).named_parameters()}
        assert parameters == expected_weights(config)
        assert ("transformer.pooler.dense.weight" in parameters) == (kind == "pooler")


def test_limits(random_checkpoint):
    assert Encoder.limits == {"max_batch_size", "opt_batch_size", "max_input_len"}
    model = model_from_checkpoint(random_checkpoint())
    with pytest.raises(ConfigError, match=r"Encoder needs max_batch_size as a positive integer, got 0"):
        model.prepare_inputs(max_batch_size=0, max_input_len=8)
    with pytest.raises(
        ConfigError, match=r"max_input_len=25 is more than the model has positions for; .* at most .*24"
    ):
        model.prepare_inputs(max_batch_size=1, max_input_len=25)
    with pytest.raises(ConfigError, match=r"opt_batch_size=3 must lie between 1 and 2"):
        model.prepare_inputs(max_batch_size=2, opt_batch_size=3, max_input_len=8)


@pytest.mark.parametrize(
    ("name", "value"), [("input_ids", VOCAB), ("input_ids", -VOCAB - 1), ("token_type_ids", 2)]
)
def test_ids_that_no_table_has_fail_the_run(random_session, name, value):
    inputs = sentences()
    inputs[name][0, 0] = value
    with pytest.raises(EngineError, match=rf"was given the index {value}, but what it looks up has"):
        random_session("float32").run(inputs)


def test_a_token_limit_beyond_the_positions_is_refused():
    config = small_config()
    pooling = dataclasses.replace(config.contract.pooling, max_seq_length=25)
    with pytest.raises(ConfigError, match=r"max_seq_length=25 is more than the model's 24 positions"):
        dataclasses.replace(config, contract=dataclasses.replace(config.contract, pooling=pooling))


@pytest.mark.parametrize("shape", [(1, 1), (4, 20), (1, 20), (4, 1)])
def test_the_corners_of_the_profile(random_session, shape):
    inputs = {
        "input_ids": np.full(shape, 5, np.int32),
        "attention_mask": np.ones(shape, np.int32),
        "token_type_ids": np.zeros(shape, np.int32),
    }
    got = random_session("float32").run(inputs)
    assert got["last_hidden_state"].shape == (*shape, HIDDEN)
    assert got["sentence_embedding"].shape == (shape[0], HIDDEN)


def test_the_contract_is_all_that_a_model_is_built_from(random_session, tmp_path):
    """The same weights under another contract give another network."""
    config = small_config()
    silu = dataclasses.replace(config.contract.feed_forward, activation="silu")
    other = dataclasses.replace(config, contract=dataclasses.replace(config.contract, feed_forward=silu))
    write_random_checkpoint(tmp_path / "c", other, seed=2)
    inputs = sentences()
    a = random_session("float32").run(inputs)["sentence_embedding"].copy()
    b = session_of(tmp_path / "c").run(inputs)["sentence_embedding"]
    assert np.abs(a - b).max() > 1e-3


def test_every_layer_runs_as_the_fused_operators_that_the_runtime_has(random_checkpoint, tmp_path):
    """Per layer: both residual adds in their norms, the bias in GELU; no shape arithmetic but the positions'."""
    model = model_from_checkpoint(random_checkpoint())
    network = tx.Builder().create_network()
    with tx.net_guard(network):
        model(**model.prepare_inputs(max_batch_size=4, max_input_len=20))
    (segment,) = lower(network.trt_network, backend.tensorrt()).steps
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    names = [weight.name for weight in segment.weights]
    values = [
        ort.OrtValue.ortvalue_from_numpy(weight.data.view(np.float32).reshape(weight.shape))
        for weight in segment.weights
    ]
    options.add_external_initializers(names, values)
    ort.InferenceSession(segment.model.SerializeToString(), options)
    counts = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert counts["SkipLayerNormalization"] == 2 * LAYERS
    assert counts["BiasGelu"] == counts["Split"] == counts["Softmax"] == LAYERS
    assert counts["LayerNormalization"] == counts["Shape"] == counts["Slice"] == 1
    # In each layer the heads of q, k and v and their joining; once the positions, and one in the mean.
    assert counts["Reshape"] == 4 * LAYERS + 2
    # The mask, and the mean's weights.
    assert counts["Unsqueeze"] == 2
    # The softmax's scale is part of the product before it.
    assert counts["Mul"] <= 1


def test_the_trained_model(minilm_dir, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    hf = transformers.BertModel.from_pretrained(
        minilm_dir, attn_implementation="eager", dtype=torch.float32
    ).eval()
    inputs = sentences(
        batch=4, seq=20, vocab=json.loads((minilm_dir / "config.json").read_text())["vocab_size"]
    )
    inputs["token_type_ids"][:] = 0
    hidden, _ = hugging_face(hf, inputs)
    convert(minilm_dir, tmp_path / "c")
    got = session_of(tmp_path / "c").run(inputs)
    real = inputs["attention_mask"] != 0
    np.testing.assert_allclose(got["last_hidden_state"][real], hidden[real], atol=1e-5)
    np.testing.assert_allclose(
        got["sentence_embedding"], mean_pooled(hidden, inputs["attention_mask"]), atol=1e-6
    )


def test_a_config_from_sizes_makes_an_encoder_that_runs(tmp_path):
    config = encoder_config(
        hidden_size=HIDDEN,
        ffn_hidden_size=FFN,
        num_hidden_layers=1,
        num_attention_heads=HEADS,
        vocab_size=VOCAB,
        max_position_embeddings=POSITIONS,
    )
    write_random_checkpoint(tmp_path / "checkpoint", config)
    tx.build_engine_dir(
        tmp_path / "checkpoint", tmp_path / "engine", tx.BuildConfig(max_batch_size=2, max_input_len=8)
    )
    inputs = {
        name: np.full((2, 5), value, np.int32)
        for name, value in (("input_ids", 3), ("attention_mask", 1), ("token_type_ids", 0))
    }
    with tx.Session.from_engine_dir(tmp_path / "engine") as session:
        vectors = session.run(inputs)["sentence_embedding"]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)
    with pytest.raises(ConfigError, match="num_attention_heads=5"):
        encoder_config(
            hidden_size=HIDDEN,
            ffn_hidden_size=FFN,
            num_hidden_layers=1,
            num_attention_heads=5,
            vocab_size=VOCAB,
            max_position_embeddings=POSITIONS,
        )
