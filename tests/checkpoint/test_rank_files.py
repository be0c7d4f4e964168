"""Writing the files of many ranks at once: threads, memory, and what is left after an error."""

import re
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from source_values import random

from trtllm_ext.checkpoint import FORMS, load_whole, rank_files, stack_config, write_checkpoint
from trtllm_ext.checkpoint.sharding import with_ranks
from trtllm_ext.errors import CheckpointError, ConfigError
from trtllm_ext.models.random import write_random_checkpoint

BUDGET_S = 4

STACK = stack_config(FORMS["gpt2"], hidden_size=16, ffn_hidden_size=64, num_hidden_layers=2)


def test_a_model_that_does_not_split_leaves_nothing(tmp_path):
    config = replace(with_ranks(STACK, 4), intermediate_size=6)
    with pytest.raises(
        ConfigError, match=r"intermediate_size=6 does not split over tp_size=4; .*: 1, 2, 3, 6\."
    ):
        write_random_checkpoint(tmp_path / "c", config)
    assert list(tmp_path.iterdir()) == []


def test_64_ranks_take_two_threads(tmp_path):
    config = with_ranks(STACK, 64)
    most = 0

    def source(name, shape):
        nonlocal most
        for piece in np.array_split(random(shape).reshape(-1), 3):
            most = max(most, threading.active_count())
            yield piece

    before = threading.active_count()
    size = write_checkpoint(tmp_path / "c", config, source)
    assert most <= before + 2
    files = sorted((tmp_path / "c").glob("rank*.safetensors"))
    assert len(files) == 64 and sum(file.stat().st_size for file in files) == size
    for name, values in load_whole(tmp_path / "c").weights.items():
        np.testing.assert_array_equal(values, random(values.shape), err_msg=name)


@pytest.mark.parametrize("ranks", [1, 4])
def test_two_buffers_are_enough_for_a_source(tmp_path, monkeypatch, ranks):
    """A piece is read until the one after the next is asked for, across weights too: checksums of the data show it."""
    buffers, turn = np.empty((2, 100), np.float32), 0

    def source(name, shape):
        nonlocal turn
        for values in np.split(random(shape).reshape(-1), range(100, int(np.prod(shape)), 100)):
            turn = 1 - turn
            buffers[turn][: values.size] = values
            yield buffers[turn][: values.size]

    def slowly(sums, dealt):
        time.sleep(1e-3)
        add(sums, dealt)

    add = rank_files._add_checksums
    monkeypatch.setattr(rank_files, "_add_checksums", slowly)
    write_checkpoint(tmp_path / "c", with_ranks(STACK, ranks), source)
    for name, values in load_whole(tmp_path / "c").weights.items():
        np.testing.assert_array_equal(values, random(values.shape), err_msg=name)


def test_an_error_in_the_middle_leaves_nothing(tmp_path):
    def source(name, shape):
        yield random(shape).reshape(-1)[:-1]

    with pytest.raises(CheckpointError, match=r"ends 1 values before its shape \(64, 16\) is full"):
        write_checkpoint(tmp_path / "c", with_ranks(STACK, 8), source)
    assert list(tmp_path.iterdir()) == []
    assert not [
        thread.name for thread in threading.enumerate() if re.match("checksum|writeback", thread.name)
    ]


MEMORY = """
import re, sys
from pathlib import Path
import numpy as np
from trtllm_ext.checkpoint import FORMS, stack_config, write_checkpoint
from trtllm_ext.checkpoint.sharding import with_ranks

def status(field):
    return int(re.findall(rf"{field}:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[0]) / 1024

def source(name, shape):
    left = int(np.prod(shape))
    while left:
        yield np.zeros(min(left, 1 << 20), np.float32)
        left -= min(left, 1 << 20)

layers, ranks = int(sys.argv[2]), int(sys.argv[3])
config = stack_config(FORMS["gpt2"], hidden_size=2048, ffn_hidden_size=8192, num_hidden_layers=layers)
Path("/proc/self/clear_refs").write_text("5")
idle = status("VmRSS")
size = write_checkpoint(sys.argv[1], with_ranks(config, ranks), source)
print(size / 1e6, status("VmHWM") - idle)
"""


@pytest.mark.parametrize(
    ("layers", "ranks"),
    [(1, 8), pytest.param(15, 8, marks=pytest.mark.long), pytest.param(4, 64, marks=pytest.mark.long)],
)
def test_memory_is_that_of_a_few_pieces_whatever_the_size_and_the_ranks(tmp_path, layers, ranks):
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "c"), str(layers), str(ranks)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    megabytes, peak = map(float, done.stdout.split())
    assert megabytes > 130 * layers
    assert peak < 40
