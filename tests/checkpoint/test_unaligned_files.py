"""Source files whose header is not padded: every weight lies at an odd byte."""

import tracemalloc
from functools import partial

import ml_dtypes
import numpy as np
import pytest
from bert_source import bert_weights
from source_values import random, save_unaligned

from trtllm_ext.checkpoint import convert, load_checkpoint, safetensors_writer
from trtllm_ext.checkpoint.convert import stream as streaming
from trtllm_ext.checkpoint.convert.pieces import Piece, rows
from trtllm_ext.checkpoint.convert.source import SourceWeights
from trtllm_ext.checkpoint.convert.source_files import open_weights

BUDGET_S = 2

STACKED = (4, 600, 500)


@pytest.fixture(params=[np.float32, ml_dtypes.bfloat16], ids=["float32", "bfloat16"])
def stacked(request, tmp_path):
    """A file of one weight, and the weight."""
    values = random(STACKED, request.param)
    save_unaligned({"experts": values}, tmp_path / "model.safetensors")
    return open_weights(tmp_path), values


@pytest.fixture
def peak():
    """peak(function) -> its result, and the most memory that it held beyond what was there."""

    def measure(function):
        tracemalloc.start()
        try:
            return function(), tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    return measure


def test_planning_copies_nothing(stacked, tmp_path, peak):
    weights, values = stacked

    def plan():
        source = SourceWeights(tmp_path, weights, {name: name for name in weights})
        views = source.use(rows(Piece("experts", STACKED), Piece("experts", STACKED).only(1)))
        assert source.shape("experts") == STACKED and views[0].dtype == values.dtype
        source.finish()
        return views[0].values()

    view, most = peak(plan)
    assert not view.flags.aligned and not view.flags.writeable
    assert most < values.nbytes // 10


@pytest.mark.parametrize("turn", ["as it is", "transposed", "every second"])
def test_streaming_copies_chunk_by_chunk(stacked, monkeypatch, peak, turn):
    monkeypatch.setattr(safetensors_writer, "CHUNK_BYTES", 10_000)
    monkeypatch.setattr(streaming, "BLOCK_BYTES", 20_000)
    weights, values = stacked
    piece = Piece("experts", STACKED)
    piece = {"as it is": piece, "transposed": piece.transpose(), "every second": piece.every_second(1)}[turn]
    expected = np.ascontiguousarray(piece.view(values)).view(np.uint8).reshape(-1)

    def read():
        end = 0
        for chunk in streaming.stream(
            piece.view(weights["experts"]), partial(weights.release_pages, "experts")
        ):
            assert chunk.flags.aligned and chunk.dtype == values.dtype and chunk.nbytes <= 10_000
            begin, end = end, end + chunk.nbytes
            assert chunk.tobytes() == expected[begin:end].tobytes()
        return end

    end, most = peak(read)
    assert end == expected.size
    assert most < 100_000 < values.nbytes // 10


def test_a_conversion_gives_the_same(bert_folder, tmp_path):
    weights = bert_weights()
    del weights["embeddings.position_ids"]
    folder = bert_folder(weights=weights)
    convert(folder, tmp_path / "aligned")
    save_unaligned(weights, folder / "model.safetensors")
    convert(folder, tmp_path / "odd")
    rank = "rank0.safetensors"
    assert (tmp_path / "odd" / rank).read_bytes() == (tmp_path / "aligned" / rank).read_bytes()


def test_a_checkpoint_is_loaded_aligned(bert_folder, tmp_path):
    convert(bert_folder(), tmp_path / "c")
    expected = {name: np.array(values) for name, values in load_checkpoint(tmp_path / "c").weights.items()}
    save_unaligned(expected, tmp_path / "c" / "rank0.safetensors")
    got = load_checkpoint(tmp_path / "c").weights
    assert set(got) == set(expected)
    for name, values in got.items():
        assert values.flags.aligned and not values.flags.writeable
        np.testing.assert_array_equal(values, expected[name])
