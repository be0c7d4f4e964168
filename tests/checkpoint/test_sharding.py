"""How weights split over ranks: every form of sublayer and the encoder, arrays in memory and the dealing of pieces."""

from dataclasses import replace
from itertools import pairwise

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from source_values import random
from stack_forms import HIDDEN, TABLE, config_of

from trtllm_ext.checkpoint import expected_weights
from trtllm_ext.checkpoint.rank_files import deal
from trtllm_ext.checkpoint.sharding import (
    Split,
    join_weights,
    split_weights,
    splits,
    whole_config,
    with_ranks,
)
from trtllm_ext.errors import CheckpointError, ConfigError
from trtllm_ext.models import encoder_config
from trtllm_ext.parallel import Mapping

BUDGET_S = 6

ENCODER = encoder_config(
    vocab_size=11,
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=12,
    ffn_hidden_size=48,
    max_position_embeddings=8,
)


def weights_of(config, dtype=np.float32):
    shapes = expected_weights(whole_config(config))
    return {name: random(shape, dtype) for name, shape in shapes.items()}


def parts_of(weights, config):
    return [split_weights(weights, config, rank) for rank in range(config.mapping.tp_size)]


@pytest.mark.parametrize("ranks", [1, 2, 8])
@pytest.mark.parametrize("name", TABLE)
def test_the_parts_have_the_expected_shapes_and_join_to_the_whole(name, ranks):
    config = with_ranks(config_of(TABLE[name]), ranks)
    weights = weights_of(config)
    parts = parts_of(weights, config)
    for part in parts:
        assert {name: values.shape for name, values in part.items()} == expected_weights(config)
    joined = join_weights(parts, config)
    assert {name: values.tobytes() for name, values in joined.items()} == {
        name: values.tobytes() for name, values in weights.items()
    }


def test_an_encoder_splits_by_heads_rows_and_columns():
    """Each of q, k and v by its own heads; written out with slices of numpy alone."""
    config = with_ranks(ENCODER, 3)
    weights = weights_of(config)
    for rank, part in enumerate(parts_of(weights, config)):
        heads, ffn = slice(8 * rank, 8 * rank + 8), slice(16 * rank, 16 * rank + 16)
        layer = "transformer.layers.1"
        expected = dict(weights)
        for leaf in ("weight", "bias"):
            qkv = weights[f"{layer}.attention.qkv.{leaf}"]
            expected[f"{layer}.attention.qkv.{leaf}"] = np.concatenate([x[heads] for x in np.split(qkv, 3)])
            expected[f"{layer}.mlp.fc.{leaf}"] = weights[f"{layer}.mlp.fc.{leaf}"][ffn]
        for name, columns in (("attention.dense", heads), ("mlp.proj", ffn)):
            expected[f"{layer}.{name}.weight"] = weights[f"{layer}.{name}.weight"][:, columns]
        for name in (name for name in weights if ".layers.0." not in name):
            np.testing.assert_array_equal(part[name], expected[name], err_msg=name)


def test_experts_split_along_their_inner_width():
    config = with_ranks(config_of(TABLE["gpt_oss_clamped"]), 4)
    weights = weights_of(config)
    prefix = "transformer.layers.0.mlp"
    for rank, part in enumerate(parts_of(weights, config)):
        ffn = slice(10 * rank, 10 * rank + 10)
        for name, place in {
            "fc.weight": np.s_[:, ffn],
            "fc.bias": np.s_[:, ffn],
            "gate.weight": np.s_[:, ffn],
            "gate.bias": np.s_[:, ffn],
            "proj.weight": np.s_[:, :, ffn],
            "proj.bias": np.s_[:],
            "router.weight": np.s_[:],
        }.items():
            np.testing.assert_array_equal(part[f"{prefix}.{name}"], weights[f"{prefix}.{name}"][place])


def test_split_weights_are_views_where_they_can_be():
    config = with_ranks(ENCODER, 2)
    weights = weights_of(config, ml_dtypes.bfloat16)
    part = split_weights(weights, config, 1)
    shared = {name for name in weights if np.shares_memory(part[name], weights[name])}
    assert set(weights) - shared == {
        f"transformer.layers.{i}.attention.qkv.{leaf}" for i in range(2) for leaf in ("weight", "bias")
    }
    assert all(values.dtype == ml_dtypes.bfloat16 for values in part.values())


def test_all_sizes_that_fit_every_width_are_named():
    with pytest.raises(
        ConfigError,
        match=r"num_attention_heads=12 does not split over tp_size=8; tp sizes that do .*: 1, 2, 3, 4, 6, 12\.",
    ):
        with_ranks(ENCODER, 8)
    with pytest.raises(ConfigError, match=r"intermediate_size=64 does not .* model: 1, 2, 4\."):
        with_ranks(replace(ENCODER, intermediate_size=64), 3)
    many = replace(config_of(TABLE["llama_swiglu"]), intermediate_size=5040)
    with pytest.raises(
        ConfigError, match=r"5040 does not .* model: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, \.\.\.\."
    ):
        with_ranks(many, 11)
    with pytest.raises(ConfigError, match=r"tp_size=0 must be at least 1"):
        with_ranks(many, 0)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"pp_size": 2}, r"mapping.pp_size=2 is not supported: the layers .* Use pp_size=1; tp_size splits"),
        ({"cp_size": 2}, r"mapping.cp_size=2 is not supported: the tokens of a sequence"),
        (
            {"tp_size": 2, "moe_ep_size": 2},
            r"mapping.moe_ep_size=2 is not supported: a mixture's experts split",
        ),
    ],
)
def test_other_kinds_of_parallelism_are_refused(mapping, message):
    with pytest.raises(ConfigError, match=message):
        replace(ENCODER, mapping=Mapping(world_size=2, **mapping))


def test_weights_that_do_not_belong_together_are_refused():
    config = with_ranks(config_of(TABLE["gpt2"]), 2)
    weights = weights_of(config)
    parts = parts_of(weights, config)
    name = "transformer.layers.0.mlp.proj.bias"
    with pytest.raises(ConfigError, match=r"rank=2 is outside 0\.\.1, the ranks of tp_size=2"):
        split_weights(weights, config, 2)
    with pytest.raises(
        CheckpointError, match=r"mlp\.fc\.weight has shape \(20, 16\) among the whole weights"
    ):
        split_weights(parts[0], config, 0)
    with pytest.raises(CheckpointError, match=r"weights of 1 ranks are given, the config has tp_size=2"):
        join_weights(parts[:1], config)
    with pytest.raises(CheckpointError, match=rf"{name} is missing among the weights of rank 1"):
        join_weights([parts[0], {k: v for k, v in parts[1].items() if k != name}], config)
    with pytest.raises(
        CheckpointError, match=rf"{name} is whole on each rank, but rank 1 holds other values"
    ):
        join_weights([parts[0], {**parts[1], name: -parts[1][name]}], config)


def test_nan_on_all_ranks_is_not_taken_for_a_difference():
    config = with_ranks(config_of(TABLE["gpt2"]), 2)
    weights = weights_of(config)
    weights["transformer.layers.0.mlp.proj.bias"] = np.full(HIDDEN, np.nan, np.float32)
    parts = [{name: np.array(values) for name, values in part.items()} for part in parts_of(weights, config)]
    assert np.isnan(join_weights(parts, config)["transformer.layers.0.mlp.proj.bias"]).all()


@st.composite
def dealt_weights(draw):
    """A whole weight that splits along an axis, in blocks, and where it is cut into pieces."""
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    axis = draw(st.integers(0, len(shape) - 1))
    ranks, blocks = draw(st.integers(2, 6)), draw(st.sampled_from([1, 3])) if axis == 0 else 1
    part = (*shape[:axis], shape[axis] * blocks, *shape[axis + 1 :])
    whole = (*shape[:axis], shape[axis] * blocks * ranks, *shape[axis + 1 :])
    cuts = sorted(draw(st.lists(st.integers(0, int(np.prod(whole))), max_size=6)))
    return whole, part, axis, blocks, ranks, cuts


@given(case=dealt_weights())
@settings(max_examples=100, deadline=None)
def test_pieces_of_any_size_are_dealt_to_the_rank_that_they_belong_to(case):
    whole_shape, part_shape, axis, blocks, ranks, cuts = case
    whole = np.arange(np.prod(whole_shape), dtype=np.int32).reshape(whole_shape)
    expected = [[] for _ in range(ranks)]
    for block in np.split(whole, blocks, axis=axis):
        for rank, part in enumerate(np.split(block, ranks, axis=axis)):
            expected[rank].append(part)
    split = Split(whole_shape, part_shape, ranks, int(np.prod(part_shape[axis:])) // blocks)
    got = [[] for _ in range(ranks)]
    places = [0, *cuts, whole.size]
    for begin, end in pairwise(places):
        for rank, values in deal(whole.reshape(-1)[begin:end], begin, split):
            assert values.flags.c_contiguous and values.size
            got[rank].append(values)
    for rank in range(ranks):
        part = np.concatenate(expected[rank], axis=axis)
        assert part.shape == part_shape
        np.testing.assert_array_equal(np.concatenate(got[rank]).reshape(part_shape), part)
        np.testing.assert_array_equal(split.take(whole, rank), part)
    np.testing.assert_array_equal(split.join([split.take(whole, rank) for rank in range(ranks)]), whole)


def test_a_weight_that_every_rank_holds_is_dealt_once():
    split = splits(with_ranks(ENCODER, 4))["transformer.embedding.vocab_embedding.weight"]
    values = random(split.whole).reshape(-1)
    dealt = list(deal(values[:100], 0, split)) + list(deal(values[100:], 100, split))
    assert [rank for rank, _ in dealt] == [0, 0]
    assert np.concatenate([part for _, part in dealt]).tobytes() == values.tobytes()
