"""Source weights read as a stream of chunks: every view of a piece, in steps small and real."""

import ml_dtypes
import numpy as np
import pytest
from source_values import random

from trtllm_ext.checkpoint import safetensors_writer
from trtllm_ext.checkpoint.convert import stream as streaming
from trtllm_ext.checkpoint.convert.pieces import Piece

BUDGET_S = 2

E, H, F = 3, 10, 14  # experts, hidden, twice the feed-forward width
A, B = Piece("matrix", (F, H)), Piece("experts", (E, H, F))

# piece -> the same in numpy
VIEWS = {
    "plain": (A, lambda x: x),
    "transpose": (A.transpose(), lambda x: x.T),
    "transposed twice": (A.transpose().transpose(), lambda x: x),
    "first rows": (A.half(0), lambda x: x[:7]),
    "last rows": (A.half(1), lambda x: x[7:]),
    "first columns": (A.half(0, axis=-1), lambda x: x[:, :5]),
    "last columns": (A.half(1, axis=1), lambda x: x[:, 5:]),
    "even columns": (A.every_second(0), lambda x: x[:, ::2]),
    "odd rows": (A.every_second(1, axis=0), lambda x: x[1::2]),
    "half of a transpose": (A.transpose().half(1), lambda x: x.T[5:]),
    "transpose of a half": (A.half(1).transpose(), lambda x: x[7:].T),
    "odd rows of a transpose": (A.transpose().every_second(1, axis=0), lambda x: x.T[1::2]),
    "odd columns of the last rows": (A.half(1).every_second(1), lambda x: x[7:, 1::2]),
    "experts": (B, lambda x: x),
    "experts transposed": (B.transpose(), lambda x: x.transpose(0, 2, 1)),
    "gate of experts": (B.transpose().every_second(0, axis=1), lambda x: x[..., 0::2].transpose(0, 2, 1)),
    "up of experts": (B.transpose().every_second(1, axis=-2), lambda x: x[..., 1::2].transpose(0, 2, 1)),
    "half of experts": (B.half(1, axis=1), lambda x: x[:, 5:]),
    "pairs of experts": (B.every_second(1), lambda x: x[..., 1::2]),
    "vector": (Piece("v", (6,)).every_second(1), lambda x: x[1::2]),
    "number": (Piece("n", ()), lambda x: x),
}


@pytest.fixture
def small_steps(monkeypatch):
    """Chunks, blocks and tiles so small that every path is taken more than once."""
    monkeypatch.setattr(safetensors_writer, "CHUNK_BYTES", 64)
    monkeypatch.setattr(streaming, "BLOCK_BYTES", 200)
    monkeypatch.setattr(streaming, "RELEASE_BYTES", 150)
    monkeypatch.setattr(streaming, "TILE", 3)


def read(values):
    """The values as they are streamed, and how often the pages were given back."""
    released = []
    chunks = [np.array(chunk) for chunk in streaming.stream(values, lambda: released.append(1))]
    assert all(chunk.ndim == 1 and chunk.dtype == values.dtype for chunk in chunks)
    assert max(chunk.nbytes for chunk in chunks) <= safetensors_writer.CHUNK_BYTES
    return np.concatenate(chunks).reshape(values.shape), len(released)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("name", VIEWS)
def test_views(small_steps, name, dtype):
    piece, expected = VIEWS[name]
    source = random(piece.source_shape, dtype)
    view = piece.view(source)
    assert np.shares_memory(view, source)
    assert piece.shape == view.shape == expected(source).shape
    got, released = read(view)
    assert got.tobytes() == np.ascontiguousarray(expected(source)).tobytes()
    assert released >= 1


def test_large_views_in_real_steps():
    source = random((1500, 1400))  # 8 MB: several chunks
    for values in (
        source,
        source.T,
        source[:, ::2],
        source[:, 700:],
        np.stack([source, -source]).swapaxes(1, 2),
    ):
        got, released = read(values)
        np.testing.assert_array_equal(got, values)
        assert released >= 1
    assert list(streaming.stream(np.zeros((0, 4), np.float32), lambda: None)) == []


def test_pages_are_given_back_while_a_large_weight_is_read(small_steps):
    matrix = random((40, 40))
    for values in (matrix, matrix.T, matrix[:, 1::2]):
        assert read(values)[1] >= matrix.nbytes // 150 // 3


def test_later_is_one_release_behind():
    done = []
    later = streaming.ReleaseLater()
    for number in range(3):
        later(lambda number=number: done.append(number))
    assert done == [0, 1]
    later.flush()
    later.flush()
    assert done == [0, 1, 2]
