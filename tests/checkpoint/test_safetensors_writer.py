"""The writer of safetensors files: its checksums, and what it has the disk write early."""

import zlib

import numpy as np
from source_values import random

from trtllm_ext.checkpoint import safetensors_writer
from trtllm_ext.checkpoint.safetensors_file import SafetensorsFile

BUDGET_S = 1


def test_the_writer_sums_and_sends_to_disk_piece_by_piece(tmp_path, monkeypatch):
    monkeypatch.setattr(safetensors_writer, "CHUNK_BYTES", 64)
    monkeypatch.setattr(safetensors_writer, "WRITEBACK_BYTES", 500)
    sent = []
    monkeypatch.setattr(
        safetensors_writer, "start_writeback", lambda _, offset, size: sent.append((offset, size))
    )
    weights = {name: random((20, 10)) for name in ("a", "b")}
    file, shapes = tmp_path / "w.safetensors", dict.fromkeys(weights, (20, 10))
    with safetensors_writer.SafetensorsWriter(file, shapes, np.dtype(np.float32)) as writer:
        for name, values in weights.items():
            writer.write(name, safetensors_writer.split_into_chunks(values))
    got = SafetensorsFile(file)
    for name, total in zip(weights, got.metadata["crc32"].split(), strict=True):
        assert got[name].tobytes() == weights[name].tobytes()
        seed = safetensors_writer.checksum_seed(name, np.dtype(np.float32), (20, 10))
        assert int(total, 16) == zlib.crc32(weights[name].tobytes(), seed)
    ends = [offset + size for offset, size in sent]
    assert sent and [offset for offset, _ in sent] == [0, *ends[:-1]], "one part after the other"
