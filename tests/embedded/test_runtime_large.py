"""One and two gigabytes of weights: what building and loading them costs in memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BUDGET_S = 120

pytestmark = pytest.mark.long

HERE = str(Path(__file__).parent)
LAYERS_PER_GB = 32  # of 8 Mi parameters, 32 MiB in float32

BUILD = """
import json, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
import trtllm_ext.embedded as trt
from tiny_plans import FeedForward, Log, config_with, strongly_typed

class File(trt.IStreamWriter):
    def __init__(self, path):
        super().__init__()
        self.file = open(path, "wb")

    def write(self, data):
        return self.file.write(data)

log = Log()
builder = trt.Builder(log)
network = strongly_typed(builder)
tensor = network.add_input("x", trt.float32, (-1, 1024))
rng = np.random.default_rng(0)
for _ in range(int(sys.argv[3])):
    for shape in ((4096, 1024), (1024, 4096)):
        weight = rng.random(shape, dtype=np.float32)
        constant = network.add_constant(shape, trt.Weights(weight)).get_output(0)
        layer = network.add_matrix_multiply(
            tensor, trt.MatrixOperation.NONE, constant, trt.MatrixOperation.TRANSPOSE
        )
        tensor = layer.get_output(0)
tensor.name = "y"
network.mark_output(tensor)
config = config_with(builder, {"x": ((1, 1024), (8, 1024), (64, 1024))})
writer = File(sys.argv[2])
assert builder.build_serialized_network_to_stream(network, config, writer), log.said
writer.file.close()
status = dict(line.split(":") for line in open("/proc/self/status"))
print(json.dumps(int(status["VmHWM"].split()[0]) / 1024))
"""

LOAD = """
import json, mmap, sys
sys.path.insert(0, sys.argv[1])
import trtllm_ext.embedded as trt
from tiny_plans import Log, context_of, feed_forward_plan

def private_mb():
    lines = open("/proc/self/smaps_rollup").read().splitlines()[1:]
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024

warm = context_of(feed_forward_plan()[1], Log(), "mapped")
with open(sys.argv[2], "rb") as file:
    memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
runtime = trt.Runtime(Log())
runtime.load_mode = sys.argv[3]
before = private_mb()
engine = runtime.deserialize_cuda_engine(memory)
assert engine is not None
print(json.dumps(private_mb() - before))
"""


def run(code, *arguments):
    command = [sys.executable, "-c", code, HERE, *map(str, arguments)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize("gigabytes", [1, 2])
def test_an_engine_is_built_in_little_more_than_its_weights_and_mapped_in_none(tmp_path, gigabytes):
    path = tmp_path / "rank0.engine"
    peak_mb = run(BUILD, path, gigabytes * LAYERS_PER_GB)
    weights_mb = path.stat().st_size / 2**20
    assert weights_mb > 1000 * gigabytes
    assert peak_mb <= 1.25 * weights_mb + 250
    mapped_mb, prepack_mb = run(LOAD, path, "mapped"), run(LOAD, path, "prepack")
    assert mapped_mb <= 100
    assert prepack_mb <= 1.1 * weights_mb
