"""Peak resident memory of virtual weights: two matrices and 500 MB, of a model that is much larger than both."""

import json
import subprocess
import sys

import pytest

from trtllm_ext.analysis.stream_map import read_stream_map
from trtllm_ext.analysis.virtual_weights import cost
from trtllm_ext.checkpoint import stack_config
from trtllm_ext.checkpoint.form_parts import gated_form, llama_norm, residual
from trtllm_ext.models import write_random_checkpoint

BUDGET_S = 2

RUN = """
import json, sys
from pathlib import Path
from trtllm_ext.analysis.stream_map import read_stream_map
from trtllm_ext.analysis.virtual_weights.virtual_weights import virtual_weights
found = read_stream_map(sys.argv[1])
status = lambda name: int(Path("/proc/self/status").read_text().split(name)[1].split()[0]) << 10
before = status("VmRSS:")
score = virtual_weights(found).score
print(json.dumps({"before": before, "peak": status("VmHWM:"), "score": score[0, 0]}))
"""


def measured(folder, hidden, ffn, layers):
    form = gated_form("silu", residual(llama_norm(1e-6)))
    config = stack_config(form, hidden_size=hidden, ffn_hidden_size=ffn, num_hidden_layers=layers)
    write_random_checkpoint(folder, config, seed=1)
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(folder)], check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout)


def test_no_product_of_the_inner_widths_is_made(tmp_path, monkeypatch):
    """A product of 200000 by 200000 would be 160 GB, a matrix is 6 MB; and the estimate has said so."""
    taken = measured(tmp_path / "checkpoint", 8, 200_000, 2)
    assert taken["peak"] - taken["before"] < 2 * 8 * 200_000 * 4 + 40e6
    monkeypatch.setattr(cost, "MEASURED_S", 0.01)
    found = read_stream_map(tmp_path / "checkpoint")
    assert taken["score"] > 0
    assert cost.estimate(found).disk_bytes == 8 * 8 * 8


@pytest.mark.long
def test_a_model_of_many_matrices_is_never_in_memory_as_a_whole(tmp_path):
    """12 matrices of 128 MB, 1.5 GB in all."""
    hidden, ffn = 512, 65536
    taken = measured(tmp_path / "checkpoint", hidden, ffn, 4)
    matrix = 4 * hidden * ffn
    assert (tmp_path / "checkpoint" / "rank0.safetensors").stat().st_size > 12 * matrix
    assert taken["peak"] < 2 * matrix + 500e6
