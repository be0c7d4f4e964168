"""Weights on their way into a quantised checkpoint."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from trtllm_ext.errors import ConfigError
from trtllm_ext.graph.quantization import functional as qf

BUDGET_S = 5


def test_symmetric_int8():
    weight = torch.tensor([[1.0, -0.5, 0.0], [-2.0, 0.25, 0.0]])
    steps, scale = qf.symmetric_quantize_last_axis_of_batched_matrix(weight, torch.int8)
    assert steps.dtype == torch.int8 and steps.shape == weight.shape
    np.testing.assert_allclose(scale, [2 / 128, 0.5 / 128, 0])
    columns = steps.reshape(3, 2)  # in column order
    np.testing.assert_array_equal(columns, [[64, -128], [-128, 64], [0, 0]])


def test_symmetric_int4_and_order_for_kernels():
    weight = torch.tensor([[1.0, -7.0, 3.0, 0.0], [8.0, 8.0, -8.0, 8.0]])
    packed, scale = qf.symmetric_quantize_last_axis_of_batched_matrix(weight, torch.quint4x2)
    np.testing.assert_allclose(scale, [1, 1, 1, 1])
    assert packed.shape == (2, 2)
    low, high = packed.reshape(-1).view(torch.uint8) % 16, packed.reshape(-1).view(torch.uint8) // 16
    np.testing.assert_array_equal(low, [1, 9, 3, 0])  # -7 is 9 in four bits
    np.testing.assert_array_equal(high, [7, 7, 8, 7])
    plain = torch.arange(6, dtype=torch.int8).reshape(2, 3)
    np.testing.assert_array_equal(
        qf.preprocess_weights_for_mixed_gemm(plain, torch.int8).reshape(3, 2), plain.T
    )
    # Rows (in) 2, columns (out) 4 of four bits: high half first.
    halves = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]], dtype=torch.uint8)
    stored = (halves[:, ::2] * 16 + halves[:, 1::2]).view(torch.int8)
    ordered = qf.preprocess_weights_for_mixed_gemm(stored, torch.quint4x2)
    assert ordered.shape == (2, 2)
    columns = ordered.reshape(4, 1).view(torch.uint8)
    np.testing.assert_array_equal(columns % 16, [[2], [1], [4], [3]])
    np.testing.assert_array_equal(columns // 16, [[6], [5], [8], [7]])


def test_unpack():
    packed = torch.tensor([[0x76543210, 0x0FEDCBA9]], dtype=torch.int32)
    np.testing.assert_array_equal(qf.unpack_int32_into_int8(packed)[0], [*range(8), *range(9, 16), 0])
    ordered = qf.unpack_int32_into_int8(torch.tensor([[0x75316420]], dtype=torch.int32), True)
    np.testing.assert_array_equal(ordered[0], range(8))


def test_qkv_order():
    heads, size = 2, 3
    w = torch.arange(4 * heads * 3 * size).reshape(4, -1)
    parts = w.reshape(4, heads, 3, size)
    expected = torch.cat([parts[:, :, i].reshape(4, -1) for i in range(3)], -1)
    np.testing.assert_array_equal(qf.change_qkv_leading_dim(w, heads), expected)
    np.testing.assert_array_equal(qf.change_qkv_leading_dim(w[0], heads), expected[0])


def test_pad_like():
    w = torch.ones(2, 3)
    assert qf.pad_like(w, (2, 3)) is w
    np.testing.assert_array_equal(
        qf.pad_like(w, (3, 5), 7), np.pad(np.ones((2, 3)), [(0, 1), (0, 2)], constant_values=7)
    )


def test_fp8_rowwise():
    rows = torch.tensor([[1.0, -2.0], [0.0, 0.0], [900.0, 3.0]])
    config = SimpleNamespace(quantization=SimpleNamespace(clamp_val=(-448.0, 448.0)))
    got = qf.postprocess_fp8_rowwise("mlp.fc.weight", [rows[:1], None, rows[1:], None], config=config)
    weight, scale = got["mlp.fc.weight"], got["mlp.fc.per_channel_scale"]
    assert weight.dtype == torch.float8_e4m3fn
    np.testing.assert_allclose(scale, [2 / 448, 1 / (448 * 512), 1], rtol=1e-6)
    np.testing.assert_allclose(weight.float() * scale[:, None], [[1, -2], [0, 0], [448, 3]], rtol=0.07)
    again = qf.postprocess_fp8_rowwise("mlp.fc.weight", [weight, scale])
    assert torch.equal(again["mlp.fc.weight"].float(), weight.float())
    assert torch.equal(again["mlp.fc.per_channel_scale"], scale)
    assert qf.postprocess_fp8_rowwise("mlp.fc.per_channel_scale", []) == {}
    with pytest.raises(ConfigError, match=r"float8_e4m3fn, not torch\.float32"):
        qf.postprocess_fp8_rowwise("mlp.fc.weight", [rows, scale])


def test_refusals():
    qf.validate_group_size(SimpleNamespace(quant_algo=8, group_size=128))
    with pytest.raises(ConfigError, match="group_size=64"):
        qf.validate_group_size(SimpleNamespace(quant_algo=8, group_size=64))
    for name in ("postprocess_weight_only", "postprocess_weight_only_groupwise"):
        with pytest.raises(ConfigError, match=rf"{name} needs torch\.ops\.trtllm"):
            getattr(qf, name)("key", None)
