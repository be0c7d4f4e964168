"""benchmarks/gpu/run.py, tried on the CPU with tiny sizes: it measures nothing there, but comes to its end."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BUDGET_S = 9

SCRIPT = Path(__file__).parents[2] / "benchmarks/gpu/run.py"
# All runs in one process: most of the time goes into importing torch.
TWICE = """
import sys
sys.path.insert(0, sys.argv[1])
import run
given = ["--device", "cpu", "--tiny", "--rounds", "2", "--library", sys.argv[2], "--output"]
codes = [run.main([*given, f"{sys.argv[3]}/whole", "--only", "layer_norm, T=3|gated"])]
codes.append(run.main([*given, f"{sys.argv[3]}/none", "--only", "plain", "--limit", "0"]))
prepare = run.prepare
def spoilt(call, sets, device):
    if "chained" in call.__qualname__:
        raise RuntimeError("spoilt")
    return prepare(call, sets, device)
run.prepare = spoilt
codes.append(run.main([*given, f"{sys.argv[3]}/spoilt", "--only", "rms_norm in a chain of 4, T=3"]))
sys.exit(0 if codes == [0, 1, 1] else 9)
"""


@pytest.mark.long
def test_checks_times_writes_and_ends_when_the_time_is_up(kernels_on_cpu, tmp_path):
    pytest.importorskip("torch", reason="the other side of the comparison is PyTorch")
    done = subprocess.run(
        [sys.executable, "-c", TWICE, SCRIPT.parent, kernels_on_cpu, tmp_path],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    record = json.loads((tmp_path / "whole/gpu_kernels.json").read_text())
    assert [each["came"] for each in record["cases"]] == ["ok"] * 2
    assert all(len(samples) == 2 for each in record["cases"] for samples in each["microseconds"].values())
    assert all(error < 1e-2 for each in record["cases"] for error in each["errors"].values())
    assert "road" in record["cases"][-1]["plans"]["ours"]
    assert "| gated, T=5 | " in (tmp_path / "whole/gpu_kernels.md").read_text()
    record = json.loads((tmp_path / "none/gpu_kernels.json").read_text())
    assert [each["came"] for each in record["cases"]] == ["not run: the time was up"]
    assert "| plain, T=5 | not run" in done.stdout
    spoilt = json.loads((tmp_path / "spoilt/gpu_kernels.json").read_text())["cases"][0]
    assert set(spoilt["microseconds"]) == {"ours", "ours, dependent launch"}
    assert set(spoilt["left_out"]) == {"torch eager", "torch.compile"}
    assert "spoilt" in spoilt["left_out"]["torch eager"]
