"""How near to float16's end a model comes: against numbers worked out by hand, and what float16 itself does."""

from dataclasses import replace

import numpy as np
import pytest
from encoder_formulas import small_config
from stack_forms import RMS, checkpoint, config_of, plain, residual
from verified_models import engine_of, stack, with_weight

from trtllm_ext.checkpoint import load_checkpoint
from trtllm_ext.errors import InputError
from trtllm_ext.models import encoder_config
from trtllm_ext.models.random import write_random_checkpoint
from trtllm_ext.verify import headroom, verify_engine

BUDGET_S = 3

pytestmark = pytest.mark.usefixtures("one_thread")

SENTENCES = ("input_ids", "attention_mask", "token_type_ids")
BIAS = "transformer.layers.{}.mlp.proj.bias"


def with_number(value):
    x = np.zeros((4, 16), np.float32)
    x[2, 3] = value
    return x


def pushed(tmp_path, value, dtype="float32", **form):
    """A stack whose first two sublayers give `value` in one channel, and nothing else."""
    found = stack(tmp_path / "c", dtype, **form)
    for index in (0, 1):
        found = with_weight(found, f"transformer.layers.{index}.mlp.proj.weight", 0, slice(None))
        found = with_weight(found, BIAS.format(index), 0, slice(None))
        found = with_weight(found, BIAS.format(index), value, 2)
    return found


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    ("value", "states"), [(1e3, ("ok", "ok")), (2e4, ("near", "near")), (4e4, ("near", "over"))]
)
def test_adds(tmp_path, dtype, value, states):
    found = pushed(tmp_path, value, dtype)
    x = np.zeros((1, 16), found.weights[BIAS.format(0)].dtype)
    room = headroom(found, inputs={"hidden_states": x})
    adds = [row for row in room.rows if row.what == "add"]
    stored = float(found.weights[BIAS.format(0)][2])
    assert [row.largest for row in adds[:2]] == pytest.approx([stored, 2 * stored])
    assert [row.state for row in adds[:2]] == list(states)
    assert adds[1].bits == pytest.approx(np.log2(65504 / (2 * stored)))
    assert room.is_safe == (states == ("ok", "ok"))


def test_it_says_what_a_float16_engine_does(tmp_path):
    for value, is_over in ((3e4, False), (4e4, True)):
        found = pushed(tmp_path / str(is_over), value, "float16")
        inputs = {"hidden_states": np.zeros((1, 16), np.float16)}
        room = headroom(found, inputs=inputs)
        report = verify_engine(engine_of(found, ("*.after",)), found, inputs=inputs)
        overflown = [row.name for row in room.rows if row.state == "over" and row.what == "add"]
        assert bool(overflown) == is_over
        if is_over:
            assert report.first_wrong.tensor == overflown[0]
            assert "infinite" in report.first_wrong.not_finite
            assert f"first at {overflown[0]}" in room.verdict
            assert "Build it in bfloat16 or float32" in room.verdict
        else:
            assert report.is_right, report.verdict


def test_norms(tmp_path):
    """The mean of squares of a row with one number; its square overflows long before the number does."""
    room = headroom(pushed(tmp_path, 1e3), inputs={"hidden_states": np.zeros((1, 16), np.float32)})
    norms = [row for row in room.rows if row.what == "norm"]
    assert [row.name for row in norms] == [f"transformer.layers.{i}.post_layernorm" for i in range(3)]
    assert norms[1].mean_square == pytest.approx(1e6 / 16)
    assert norms[1].square_bits == pytest.approx(np.log2(65504 / 1e6))
    assert norms[1].state == "ok"
    assert "squares in transformer.layers.1.post_layernorm would overflow in float16" in room.verdict


def test_a_clamp_hides_nothing(tmp_path):
    """T5's clamp acts on float16 sums; what is told is what they would have been."""
    form = plain(residual=residual(norm=RMS, clamp="float16"))
    checkpoint(tmp_path / "c", config_of(form, "float16"))
    found = load_checkpoint(tmp_path / "c")
    x = np.full((2, 16), 6e4, np.float16)
    weights = {**found.weights}
    for name in weights:
        if name.endswith("proj.weight"):
            weights[name] = np.full_like(weights[name], 1e3)
    room = headroom(replace(found, weights=weights), inputs={"hidden_states": x})
    assert room.clamp
    assert room.least.largest > 65504 * 1.1
    assert "brings sums of the stream back into the range" in room.verdict


def test_an_encoder(tmp_path):
    config = encoder_config(
        hidden_size=16,
        ffn_hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        vocab_size=30,
        max_position_embeddings=16,
        dtype="bfloat16",
    )
    write_random_checkpoint(tmp_path, config)
    room = headroom(tmp_path)
    names = [(row.name.removeprefix("transformer."), row.what) for row in room.rows]
    assert names == [
        ("embedding.embedding_ln", "norm"),
        ("layers.0.attention.contribution", "contribution"),
        ("layers.0.attention.after", "add"),
        ("layers.0.input_layernorm", "norm"),
        ("layers.0.mlp.contribution", "contribution"),
        ("layers.0.mlp.after", "add"),
        ("layers.0.post_layernorm", "norm"),
    ]
    assert room.is_safe
    assert room.verdict.startswith("float16 is safe for this input: ")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_ids": np.full((2, 5), 60, np.int32)}, r"has 60 at \[0, 0\], but vocab_size is 60"),
        ({"token_type_ids": np.full((2, 5), -1, np.int32)}, r"has -1 at \[0, 0\], but type_vocab_size is 2"),
        (
            {"attention_mask": np.ones((2, 4), np.int32)},
            "input_len is 4 in the input 'attention_mask' and 5 in",
        ),
        ({"attention_mask": np.ones((0, 5), np.int32)}, r"dimension 0 \(batch_size\) is 0"),
        (dict.fromkeys(SENTENCES, np.ones((2, 25), np.int32)), r"\(input_len\) is 25, allowed are 1 to 24"),
    ],
)
def test_sentences_that_do_not_fit(tmp_path, changes, message):
    checkpoint(tmp_path / "c", small_config("float16", "mean"))
    given = dict.fromkeys(SENTENCES, np.ones((2, 5), np.int32))
    headroom(tmp_path / "c", inputs=given)
    with pytest.raises(InputError, match=message):
        headroom(tmp_path / "c", inputs=given | changes)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(tmp_path, value):
    """No type helps, and the advice to take another would mislead."""
    found = with_weight(stack(tmp_path / "c"), BIAS.format(1), value, 2)
    room = headroom(found)
    assert not room.is_safe
    assert room.verdict.startswith(f"The numbers are {value} from transformer.layers.1.mlp.contribution")
    assert "Build it in" not in room.verdict
    room.to_dict()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "'hidden_states' is missing"),
        ({"hidden_state": np.zeros((1, 16), np.float32)}, "Did you mean"),
        ({"hidden_states": np.zeros((1, 8), np.float32)}, r"\(-1, 16\)"),
        ({"hidden_states": np.zeros((1, 16))}, "float64"),
        ({"hidden_states": np.zeros((0, 16), np.float32)}, r"dimension 0 \(num_tokens\) is 0, allowed are 1"),
        ({"hidden_states": with_number(np.inf)}, r"the input 'hidden_states' has inf at \[2, 3\]"),
        ({"hidden_states": with_number(-np.inf)}, r"has inf at \[2, 3\]"),
        ({"hidden_states": with_number(np.nan)}, r"the input 'hidden_states' has NaN at \[2, 3\]"),
    ],
)
def test_inputs_that_do_not_fit(tmp_path, inputs, message):
    with pytest.raises(InputError, match=message):
        headroom(stack(tmp_path / "c"), inputs=inputs)
