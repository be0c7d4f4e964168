"""The writer of safetensors files: its checksums, and what it has the disk write early."""

import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from source_values import random

from trtllm_ext.checkpoint import expected_weights, rank_files, safetensors_writer
from trtllm_ext.checkpoint.safetensors_file import SafetensorsFile
from trtllm_ext.checkpoint.sharding import split_weights, whole_config, with_ranks
from trtllm_ext.errors import CheckpointError
from trtllm_ext.models import sublayer_stack_config

BUDGET_S = 1


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_writer_sums_and_sends_to_disk_piece_by_piece(tmp_path, monkeypatch, ranks):
    monkeypatch.setattr(safetensors_writer, "CHUNK_BYTES", 64)
    monkeypatch.setattr(rank_files, "WRITEBACK_BYTES", 500 * ranks)
    monkeypatch.setattr(rank_files, "_LEAST_WRITEBACK_BYTES", 1)
    sent = []
    monkeypatch.setattr(safetensors_writer, "start_writeback", lambda *arguments: sent.append(arguments))
    config = with_ranks(sublayer_stack_config(hidden_size=10, ffn_hidden_size=20, num_hidden_layers=2), ranks)
    weights = {name: random(shape) for name, shape in expected_weights(whole_config(config)).items()}
    with rank_files.RankFiles(tmp_path, config) as files:
        for name, values in weights.items():
            files.write(name, safetensors_writer.split_into_chunks(values))
        num_bytes, _ = files.finish()
    assert num_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    for rank in range(ranks):
        got = SafetensorsFile(tmp_path / f"rank{rank}.safetensors")
        expected = split_weights(weights, config, rank)
        for name, total in zip(weights, got.metadata["crc32"].split(), strict=True):
            assert got[name].tobytes() == expected[name].tobytes()
            seed = safetensors_writer.checksum_seed(name, np.dtype(np.float32), got[name].shape)
            assert int(total, 16) == zlib.crc32(expected[name].tobytes(), seed)
    for descriptor in {of for of, *_ in sent}:
        parts = [part for of, *part in sent if of == descriptor]
        ends = [offset + size for offset, size in parts]
        assert [offset for offset, _ in parts] == [0, *ends[:-1]], "one part after the other"
    assert len({of for of, *_ in sent}) == ranks


def test_weights_out_of_order_and_files_that_are_not_full_are_refused(tmp_path):
    config = sublayer_stack_config(hidden_size=4, ffn_hidden_size=6, num_hidden_layers=1)
    first, second, *_ = expected_weights(config)
    with rank_files.RankFiles(tmp_path, config) as files:
        with pytest.raises(CheckpointError, match=f"{first} and .* more are not written"):
            files.finish()
        with pytest.raises(CheckpointError, match=f"{second} is written out of the announced order"):
            files.write(second, [])
    with ThreadPoolExecutor() as disk:
        writer = safetensors_writer.SafetensorsWriter(
            tmp_path / "f", {"w": (2,)}, np.dtype(np.float32), {}, disk=disk
        )
        writer.feed(np.zeros(1, np.float32))
        with pytest.raises(CheckpointError, match=r"f has 4 bytes of data .*; announced were 8"):
            writer.finish({})
        writer.close()
