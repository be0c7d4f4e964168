"""Hadamard matrices, random rotations, and rotations from files."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from trtllm_ext.analysis.rotation import hadamard, hadamard_order, make_rotation, read_rotation
from trtllm_ext.errors import CheckpointError, ConfigError

BUDGET_S = 1


# Sylvester; Paley's first construction over primes (12, 20, 60) and 3^3 (28), 7^3 (344); his second (36), over 5^2
# (52) and 7^2 (100); products.
@pytest.mark.parametrize("size", [1, 2, 16, 12, 20, 28, 36, 52, 60, 100, 344, 384, 768, 896])
def test_hadamard_matrices_are_of_signs_with_orthogonal_rows(size):
    matrix = hadamard(size)
    assert set(np.unique(matrix)) <= {1.0, -1.0}
    assert np.array_equal(matrix @ matrix.T, size * np.eye(size))
    assert (matrix[:, 0] == 1).all()


@pytest.mark.parametrize(
    "size, expected",
    [
        (4096, (4096, 1, 1)),
        (5120, (256, 20, 1)),
        (11008, (32, 344, 1)),
        (3584, (128, 28, 1)),
        (1600, (16, 100, 1)),
        (184, (8, 1, 23)),
        (15, (1, 1, 15)),
    ],
)
def test_how_a_width_is_made_up(size, expected):
    found = hadamard_order(size)
    assert (found.sylvester, found.paley, found.rest) == expected


def test_an_order_without_a_known_matrix_is_refused():
    with pytest.raises(ValueError, match="order 92"):
        hadamard(92)


@pytest.mark.parametrize("size", [16, 24, 92, 15, 1])
@pytest.mark.parametrize("kind", ["hadamard", "orthogonal", "identity"])
@pytest.mark.parametrize("keep_mean", [False, True])
def test_rotations_are_orthogonal_and_keep_the_mean_where_they_must(size, kind, keep_mean):
    found = make_rotation(kind, size, 3, keep_mean=keep_mean)
    q = found.matrix
    assert np.abs(q @ q.T - np.eye(size)).max() < 1e-13
    if keep_mean:
        assert found.keeps_mean
        np.testing.assert_allclose(q.sum(1), 1, rtol=0, atol=1e-13)
    assert np.array_equal(q, make_rotation(kind, size, 3, keep_mean=keep_mean).matrix)
    if kind != "identity" and size > 1:
        assert not np.array_equal(q, make_rotation(kind, size, 4, keep_mean=keep_mean).matrix)


def test_a_hadamard_rotation_spreads_each_channel_over_all_evenly():
    rotation = make_rotation("hadamard", 48)
    np.testing.assert_allclose(np.abs(rotation.matrix), 1 / np.sqrt(48), rtol=1e-12)
    assert "48 = 4 (Sylvester) x 12 (Paley)" in rotation.description


def test_a_negative_seed_is_refused():
    with pytest.raises(ConfigError, match="seed=-1 is negative"):
        make_rotation("hadamard", 8, -1)


def test_what_has_no_hadamard_matrix_says_so():
    assert "no Hadamard matrix being known" in make_rotation("hadamard", 92).description
    assert "no Hadamard matrix of order 92" in make_rotation("hadamard", 92, keep_mean=True).description


def saved(path, matrix):
    if path.suffix == ".safetensors":
        save_file({"R1": matrix}, path)
    elif path.suffix == ".npz":
        np.savez(path, R1=matrix)
    else:
        np.save(path, matrix)
    return path


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors"])
def test_a_given_rotation_is_made_orthogonal_in_float64(tmp_path, suffix):
    exact = make_rotation("orthogonal", 20, 1).matrix
    path = saved(tmp_path / f"q{suffix}", exact.astype(np.float32))
    found = read_rotation(path, 20)
    assert 1e-9 < found.deviation < 1e-5
    assert np.abs(found.matrix @ found.matrix.T - np.eye(20)).max() < 1e-13
    np.testing.assert_allclose(found.matrix, exact, rtol=0, atol=1e-6)


def test_a_given_rotation_that_keeps_the_mean_does_so_in_float64(tmp_path):
    exact = make_rotation("orthogonal", 20, 1, keep_mean=True).matrix
    path = saved(tmp_path / "q.npy", exact.astype(np.float32))
    found = read_rotation(path, 20, keep_mean=True).matrix
    np.testing.assert_allclose(found.sum(1), 1, rtol=0, atol=1e-13)
    assert np.abs(found @ found.T - np.eye(20)).max() < 1e-13


@pytest.mark.parametrize(
    "matrix, message",
    [
        (np.eye(8) * 1.001, r"is not orthogonal: .* is 0\.002, the limit is 1e-05"),
        (np.eye(6), r"shape \(6, 6\); the stream has 8 channels"),
        (np.ones(8), r"shape \(8,\)"),
        (np.eye(8, dtype=np.float16), "float16 values; save the rotation as float64"),
        (np.full((8, 8), np.nan), "NaN or infinity"),
    ],
)
def test_what_is_no_rotation_of_this_stream_is_refused(tmp_path, matrix, message):
    with pytest.raises(ConfigError, match=message):
        read_rotation(saved(tmp_path / "q.npy", matrix), 8)


def test_a_rotation_that_moves_the_mean_is_refused_where_it_must_not(tmp_path):
    path = saved(tmp_path / "q.npy", make_rotation("hadamard", 8).matrix)
    with pytest.raises(ConfigError, match=r"moves the mean direction.*Q 1 = 1"):
        read_rotation(path, 8, keep_mean=True)


def test_files_that_hold_no_matrix_are_refused_by_name(tmp_path):
    with pytest.raises(CheckpointError, match=r"gone\.npy does not exist"):
        read_rotation(tmp_path / "gone.npy", 8)
    (tmp_path / "text.npy").write_text("hello")
    with pytest.raises(CheckpointError, match=r"text\.npy cannot be read"):
        read_rotation(tmp_path / "text.npy", 8)
    np.savez(tmp_path / "two.npz", a=np.eye(8), b=np.eye(8))
    with pytest.raises(ConfigError, match=r"two\.npz holds 2 arrays \(a, b\)"):
        read_rotation(tmp_path / "two.npz", 8)
    with pytest.raises(ConfigError, match=r"neither a kind .* nor a \.npy"):
        read_rotation(tmp_path / "q.txt", 8)
    with pytest.raises(ConfigError, match="'hadamart' is not known"):
        make_rotation("hadamart", 8)
