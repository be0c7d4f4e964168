"""Rotary embeddings, ALiBi and their like against formulas written out in numpy."""

import math

import numpy as np
import pytest

from trtllm_ext.errors import ConfigError, GraphError
from trtllm_ext.graph import functional as fn
from trtllm_ext.graph.functional import PositionEmbeddingType, RopeEmbeddingUtils, RotaryScalingType

BUDGET_S = 6

RNG = np.random.default_rng(3)
DIM = 8


def angle(position, pair, theta=10000.0):
    return position * theta ** (-2 * pair / DIM)


def test_sinusoidal_positions():
    table = RopeEmbeddingUtils.create_sinusoidal_positions(6, DIM, 500.0)
    assert table.shape == (1, 6, DIM) and table.dtype == np.float32
    for position in range(6):
        for pair in range(DIM // 2):
            turn = angle(position, pair, 500.0)
            np.testing.assert_allclose(
                table[0, position, [pair, DIM // 2 + pair]], [math.sin(turn), math.cos(turn)], atol=1e-6
            )


@pytest.mark.parametrize(
    "kind, config, factor",
    [
        (RotaryScalingType.none, None, 2.0),
        (RotaryScalingType.linear, None, 0.5),
        (RotaryScalingType.dynamic, {"alpha": 3.0}, None),
    ],
)
def test_table_for_attention_kernels(kind, config, factor):
    create = RopeEmbeddingUtils.create_sinusoidal_positions_for_attention_plugin
    frequencies, table = create(5, DIM, 100.0, 2.0, kind, config)
    theta = 100.0 * 3.0 ** (DIM / (DIM - 2)) if factor is None else 100.0
    expected = (factor or 1.0) * theta ** (-np.arange(0, DIM, 2) / DIM)
    np.testing.assert_allclose(frequencies, expected, rtol=1e-6)
    turns = np.arange(5)[:, None] * expected
    assert table.shape == (1, 5 * DIM) and table.dtype == np.float32
    np.testing.assert_allclose(
        table.reshape(5, 4, 2), np.stack([np.cos(turns), np.sin(turns)], -1), atol=1e-6
    )


def test_llama3_scaling():
    config = {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    waves = np.array([2.0, 15.9, 16.1, 32.0, 63.9, 64.1, 1000.0])
    frequencies = (2 * math.pi / waves).astype(np.float32)
    got = RopeEmbeddingUtils.apply_llama3_scaling(frequencies, config)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got[:2], frequencies[:2])
    np.testing.assert_allclose(got[5:], frequencies[5:] / 8, rtol=1e-6)
    for i in (2, 3, 4):
        share = (64 / waves[i] - 1) / 3
        np.testing.assert_allclose(got[i], frequencies[i] * ((1 - share) / 8 + share), rtol=1e-5)
    scaled, _ = RopeEmbeddingUtils.create_sinusoidal_positions_for_attention_plugin(
        2, DIM, 10000.0, scale_type=RotaryScalingType.llama3, rope_scaling_config=config
    )
    plain = 10000.0 ** (-np.arange(0, DIM, 2) / DIM)
    np.testing.assert_allclose(
        scaled, RopeEmbeddingUtils.apply_llama3_scaling(plain.astype(np.float32), config), rtol=1e-6
    )


def test_scaling_errors():
    create = RopeEmbeddingUtils.create_sinusoidal_positions_for_attention_plugin
    with pytest.raises(ConfigError, match="llama3 scaling needs rope_scaling_config"):
        create(2, DIM, scale_type=RotaryScalingType.llama3)
    with pytest.raises(ConfigError, match="the key 'alpha'"):
        create(2, DIM, scale_type=RotaryScalingType.dynamic, rope_scaling_config={})
    with pytest.raises(ConfigError, match="are both 2"):
        RopeEmbeddingUtils.apply_llama3_scaling(np.ones(2), {"low_freq_factor": 2.0, "high_freq_factor": 2.0})


def test_positions_of_an_image_count_as_one():
    _, table = RopeEmbeddingUtils.create_sinusoidal_positions_for_cogvlm_attention_plugin(
        12, DIM, vision_start=1, vision_length=5
    )
    positions = [0, 1, 2, 2, 2, 2, 2, 3, 4, 5, 6, 7]
    expected = [[[math.cos(angle(p, i)), math.sin(angle(p, i))] for i in range(4)] for p in positions]
    np.testing.assert_allclose(table.reshape(12, 4, 2), expected, atol=1e-5)


def test_long_rope():
    short, long = [1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]
    create = RopeEmbeddingUtils.create_sinusoidal_positions_long_rope
    scale = math.sqrt(1 + math.log(2) / math.log(4))
    for longest, factors in ((None, long), (8, long), (4, short)):
        nothing, table = create(8, DIM, 10000.0, 4, short, long, max_seq_len=longest)
        turns = np.arange(8)[:, None] * 10000.0 ** (-np.arange(0, DIM, 2) / DIM) / factors
        assert nothing is None
        np.testing.assert_allclose(
            table.reshape(8, 4, 2), scale * np.stack([np.cos(turns), np.sin(turns)], -1), atol=1e-5
        )
    plain_short, plain_long, fused_short, fused_long, used = (
        RopeEmbeddingUtils.create_sinusoidal_positions_long_rope_for_attention_plugin(
            8, 4, DIM, scaling_short_factors=short, scaling_long_factors=long
        )
    )
    assert used == pytest.approx(scale)
    np.testing.assert_allclose(fused_long[1], create(8, DIM, 10000.0, 4, short, long)[1], atol=1e-5)
    np.testing.assert_allclose(
        fused_short[0], 10000.0 ** (-np.arange(0, DIM, 2) / DIM)[None] / short, rtol=1e-6
    )
    assert plain_short.shape == plain_long.shape == (1, 8, DIM)
    np.testing.assert_allclose(plain_long[0, :, 4:], fused_long[1].reshape(8, 4, 2)[..., 0], atol=1e-6)
    assert not np.allclose(plain_short, plain_long)


def test_yarn():
    dim, base, original, factor = 32, 10000, 128, 4.0
    got, table = RopeEmbeddingUtils.create_sinusoidal_positions_yarn(
        6, dim, base, factor, original, 32, 1, 1.0, 0.0, duplicate_data=False
    )
    plain = base ** (-np.arange(0, dim, 2) / dim)
    # A pair that turns 32 times or more over the original length is kept, one that turns once or less is divided.
    place = [dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base)) for turns in (32, 1)]
    low, high = max(math.floor(place[0]), 0), min(math.ceil(place[1]), dim - 1)
    ramp = np.clip((np.arange(dim // 2) - low) / (high - low), 0, 1)
    np.testing.assert_allclose(got, plain * (1 - ramp) + plain / factor * ramp, rtol=1e-5)
    scale = 0.1 * math.log(factor) + 1
    turns = np.arange(6)[:, None] * got
    np.testing.assert_allclose(
        table.reshape(6, 16, 2), scale * np.stack([np.cos(turns), np.sin(turns)], -1), atol=1e-5
    )
    _, twice = RopeEmbeddingUtils.create_sinusoidal_positions_yarn(6, dim, base, factor, original)
    assert twice.shape == (1, 6 * 2 * dim)
    assert RopeEmbeddingUtils.create_fake_weight(7).shape == (7,)


def rotated(x, turns, kind):
    """Each pair as a complex number, turned. x (batch, seq, heads, dim), turns (seq, dim / 2)."""
    a, b = (x[..., ::2], x[..., 1::2]) if kind == "rope_gptj" else np.split(x, 2, -1)
    turned = (a + 1j * b) * np.exp(1j * turns)[:, None]
    if kind == "rope_gptj":
        return np.stack([turned.real, turned.imag], -1).reshape(x.shape)
    return np.concatenate([turned.real, turned.imag], -1)


@pytest.mark.parametrize("kind", ["rope_gptj", "rope_gpt_neox", "long_rope"])
@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 1e-5), (np.float16, 4e-3)])
def test_apply_rotary(run_rounded, kind, dtype, tolerance):
    x = RNG.normal(size=(2, 5, 3, DIM)).astype(dtype)
    turns = np.arange(5)[:, None] * 10000.0 ** (-np.arange(0, DIM, 2) / DIM)
    tables = [each[None].astype(dtype) for each in (np.cos(turns), np.sin(turns))]
    got = run_rounded(
        lambda x, cos, sin: RopeEmbeddingUtils.apply_rotary_pos_emb(
            x, [cos, sin], PositionEmbeddingType[kind]
        ),
        x,
        *tables,
        shapes=[(-1, -1, 3, DIM), (1, -1, DIM // 2), (1, -1, DIM // 2)],
    )
    np.testing.assert_allclose(got, rotated(x.astype(np.float64), turns, kind), atol=tolerance)


def test_rotations_alone(run):
    x = np.arange(16, dtype=np.float32).reshape(1, 1, 2, 8)
    two, half = run(lambda x: (RopeEmbeddingUtils.rotate_every_two(x), RopeEmbeddingUtils.rotate_half(x)), x)
    np.testing.assert_array_equal(two[0, 0, 0], [-1, 0, -3, 2, -5, 4, -7, 6])
    np.testing.assert_array_equal(half[0, 0, 0], [-4, -5, -6, -7, 0, 1, 2, 3])


def test_rotation_errors(guarded):
    _, add_input = guarded
    x, odd = add_input("x", "float32", [1, 2, 3, 8]), add_input("odd", "float32", [1, 2, 3, 7])
    table = add_input("t", "float32", [1, 2, 4])
    apply = RopeEmbeddingUtils.apply_rotary_pos_emb
    with pytest.raises(GraphError, match="alibi is not a rotary one"):
        apply(x, [table, table], PositionEmbeddingType.alibi)
    with pytest.raises(GraphError, match="takes 2 tables"):
        apply(x, [table], PositionEmbeddingType.rope_gptj)
    with pytest.raises(GraphError, match="even, known head_size"):
        apply(odd, [table, table])


def test_cogvlm(run_rounded):
    heads, seq = 2, 5
    parts = RNG.normal(size=(3, 2, seq, heads * DIM)).astype(np.float32)
    positions = np.array([[0, 1, 1, 2, 3], [3, 2, 1, 0, 4]], np.int32)

    def define(qkv, positions):
        return RopeEmbeddingUtils.apply_rotary_pos_emb_cogvlm(qkv, positions, heads, DIM, 8, 1.0, False)

    got = run_rounded(
        define, np.concatenate(parts, -1), positions, shapes=[(-1, -1, 3 * heads * DIM), (-1, -1)]
    )
    frequencies = 10000.0 ** (-np.arange(0, DIM, 2) / DIM)
    for batch in range(2):
        turns = positions[batch][:, None] * frequencies
        turned = [
            rotated(each[batch].reshape(1, seq, heads, DIM), turns, "rope_gpt_neox").reshape(seq, -1)
            for each in parts[:2]
        ]
        np.testing.assert_allclose(got[batch], np.concatenate([*turned, parts[2, batch]], -1), atol=1e-5)


@pytest.mark.parametrize("packed", [False, True])
def test_chatglm(run_rounded, packed):
    heads, seq, size = 2, 4, 8
    parts = RNG.normal(size=(3, 1, seq, heads * size)).astype(np.float32)
    positions = np.array([[[0, 1, 2, 2], [0, 0, 1, 2]]], np.int32)
    shapes = [(-1, -1, heads * size)] * 3 + [(-1, 2, -1)]
    if packed:
        parts, positions = parts[:, 0], positions[0]
        shapes = [shape[1:] for shape in shapes]

    def define(q, k, v, positions):
        return RopeEmbeddingUtils.apply_rotary_pos_emb_chatglm(
            [q, k, v], positions, heads, size, 8, 1.0, packed
        )

    got = run_rounded(define, *parts, positions, shapes=shapes)
    frequencies = 10000.0 ** (-np.arange(0, size // 2, 2) / (size // 2))
    for mine, given in zip(got[:2], parts[:2], strict=True):
        x = given.reshape(1, seq, heads, size)
        halves = [
            rotated(part, places[:, None] * frequencies, "rope_gpt_neox")
            for part, places in zip(np.split(x, 2, -1), positions.reshape(2, seq), strict=True)
        ]
        np.testing.assert_allclose(mine, np.concatenate(halves, -1).reshape(given.shape), atol=1e-5)
    np.testing.assert_array_equal(got[2], parts[2])


def test_chatglm_with_all_in_one(run_rounded):
    heads, seq, size = 2, 3, 4
    qkv = RNG.normal(size=(seq, heads, 3, size)).astype(np.float32)
    got = run_rounded(
        lambda qkv, places: RopeEmbeddingUtils.apply_rotary_pos_emb_chatglm(
            qkv, places, heads, size, 8, 1.0, True
        ),
        qkv.reshape(seq, -1),
        np.zeros((2, seq), np.int32),
        shapes=[(-1, 3 * heads * size), (2, -1)],
    )
    np.testing.assert_allclose(got, qkv.transpose(0, 2, 1, 3).reshape(seq, -1), atol=1e-6)


def test_alibi_slopes():
    np.testing.assert_allclose(fn.generate_alibi_slopes(4).ravel(), 2.0 ** -np.array([2, 4, 6, 8]))
    np.testing.assert_allclose(
        fn.generate_alibi_slopes(2, alibi_bias_max=4, alibi_scale=3.0).ravel(), [0.75, 0.1875]
    )
    six = [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3]
    slopes = fn.generate_alibi_slopes(6)
    assert slopes.shape == (1, 6, 1, 1) and slopes.dtype == np.float32
    np.testing.assert_allclose(slopes.ravel(), six)
    parts = [fn.generate_alibi_slopes(6, tp_size=3, tp_rank=rank).ravel() for rank in range(3)]
    np.testing.assert_allclose(np.concatenate(parts), six)
    with pytest.raises(ConfigError, match="num_heads=6 does not split over tp_size=4"):
        fn.generate_alibi_slopes(6, tp_size=4)


def test_alibi_biases(run):
    slopes = fn.generate_alibi_slopes(4)
    got = run(
        lambda keys: fn.generate_alibi_biases(fn.constant(slopes), fn.shape(keys, 1)),
        np.zeros((2, 5), np.float32),
        shapes=[(2, -1)],
    )
    np.testing.assert_allclose(got, slopes * np.arange(5))


def test_logn_scaling():
    got = fn.generate_logn_scaling(16, 256)
    assert got.shape == (256,) and got.dtype == np.float32
    np.testing.assert_allclose(got[[0, 15, 255]], [1, 1, 2])


def test_gather_last_token_logits(run, guarded):
    packed, padded = (
        np.arange(14.0, dtype=np.float32).reshape(7, 2),
        np.arange(24.0, dtype=np.float32).reshape(3, 4, 2),
    )
    lengths = np.array([2, 1, 4], np.int32)
    ends = np.cumsum(lengths, dtype=np.int32)
    got = run(lambda x, ids: fn.gather_last_token_logits(x, ids, True), packed, ends, shapes=[(-1, 2), (-1,)])
    np.testing.assert_array_equal(got, packed[ends - 1])
    got = run(
        lambda x, ids: fn.gather_last_token_logits(x, ids, False),
        padded,
        lengths,
        shapes=[(-1, -1, 2), (-1,)],
    )
    np.testing.assert_array_equal(got, padded[np.arange(3), lengths - 1])
    several = np.array([[0, 1], [3, 2], [1, 1]], np.int32)
    got = run(lambda x, ids: fn.gather_last_token_logits(x, ids, False), padded, several)
    np.testing.assert_array_equal(got, np.take_along_axis(padded, several[..., None].astype(int), 1))
    _, add_input = guarded
    x, ids = add_input("x", "float32", [3, 4, 2]), add_input("ids", "int32", [3])
    assert fn.gather_last_token_logits(x, None, False) is x
    with pytest.raises(GraphError, match="hidden_states has 2 dimensions here"):
        fn.gather_last_token_logits(x, ids, True)
