"""Every case of the scripts beside this file, on NVIDIA's TensorRT; and what becomes of cases that do not end well.

How to run them: install this package, NVIDIA's `tensorrt`, and torch or cuda-python, where there is a GPU. Then

    pytest tests/on_tensorrt                # every case, one after another: hours on TensorRT 8.6

or, side by side and with a limit of time, a script at a time, which writes one JSON line a case:

    export PYTHONPATH=.:tests
    python tests/on_tensorrt/forms_on_tensorrt.py forms.jsonl --processes 8 [--only 'float32 gpt2']
    python tests/on_tensorrt/table.py *.jsonl

forms: each form of a model beside the embedded engine. faults: what `verify` finds. settings, sessions, wrong_engines,
refit, plugins: as they say. definitions: the oracle and the ONNX export on TensorRT's own networks. With other
arguments (each says which): zoo and lowering, single networks; buffers_on_device, without TensorRT. `--engine embedded`
tries a script where there is no GPU. docs/tensorrt_8.md is what came of it on TensorRT 8.6.
"""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import cases
import checks
import engines
import pytest
import table

from trtllm_ext.builder.way_out import way_out

BUDGET_S = 8

HERE = Path(__file__).parent
SCRIPTS = ("definitions", "faults", "forms", "plugins", "refit", "sessions", "settings", "wrong_engines")
LIMIT_S = 300

# Cases that end in every way.
BADLY = """
import os, sys, time
import cases

def wrong():
    assert 1 == 2, "one is not two"

CASES = {
    "fine": lambda: {"why": "seen"},
    "wrong": wrong,
    "raised": lambda: {}["no such key"],
    "crashed": lambda: os._exit(7),
    "endless": lambda: time.sleep(60),
    "after them": lambda: {"why": "seen"},
}
sys.exit(cases.main(__file__, CASES))
"""


def all_cases():
    for script in SCRIPTS:
        for name in import_module(f"{script}_on_tensorrt").CASES:
            yield pytest.param(script, name, id=f"{script}: {name}")


@pytest.mark.parametrize(("script", "name"), list(all_cases()))
def test_case(real_tensorrt, script, name):
    line = cases.run_case(str(HERE / f"{script}_on_tensorrt.py"), name, LIMIT_S, "tensorrt")
    if line["came"] == "refused":
        assert line.get("dtype") == "bfloat16" or engines.NO_KERNEL in line["why"], line
    else:
        assert line["came"] == "ok", line


def test_a_form_of_the_embedded_engine_beside_itself(tmp_path):
    """The script of forms, and its table, where both engines are the same one."""
    line = cases.run_case(str(HERE / "forms_on_tensorrt.py"), "float16 gpt2", 60, "embedded")
    assert (line["came"], line["error"], line["taps_error"], line["taps_changed"]) == ("ok", 0, 0, 0), line
    file = tmp_path / "lines"
    file.write_text(json.dumps({**line, "came": "timeout"}) + "\n" + json.dumps(line) + "\n")
    row = table.forms_table(table.lines_of([str(file)])).splitlines()[-1]
    assert row.startswith(f"| gpt2 | {line['taps']} | not run | not run | not run | 0.0e+00 | 0.0e+00 | "), (
        row
    )


def test_the_table_tells_a_form_of_which_one_engine_was_refused():
    line = {"form": "f", "dtype": "float16", "came": "refused", "error": 1e-3, "build_s": 2.0}
    assert table.forms_table([line]).splitlines()[-1].endswith("| 1.0e-03 | refused | 2 |")


def test_engines_with_plugins_where_both_engines_are_the_same_one():
    line = cases.run_case(
        str(HERE / "plugins_on_tensorrt.py"), "float16 llama_swiglu: all plugins", 60, "embedded"
    )
    assert line["came"] == "ok", line
    assert line["why"].startswith("FeedForward, ResidualNorm: right within 0.0e+00"), line


def test_what_a_release_has_no_kernel_for_is_told_apart():
    def without_kernel(folder):
        told = way_out("1: Could not infer output types", {"precision": "float16"})
        raise engines.RefusedError(f"the engine could not be built:{told}")

    def otherwise(folder):
        raise engines.RefusedError("the engine could not be built: other")

    every = checks.Checks()
    every.enter(without_kernel)
    every.enter(otherwise)
    assert every["without_kernel"]()["came"] == "refused"
    with pytest.raises(engines.RefusedError, match="other"):
        every["otherwise"]()


def test_every_case_has_a_line_however_it_ends(tmp_path):
    script, file = tmp_path / "script.py", tmp_path / "lines"
    script.write_text(BADLY)
    done = subprocess.run(
        [sys.executable, script, file, "--engine", "embedded", "--processes", "2", "--limit", "3"],
        env=cases.environment("embedded"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    lines = {line["name"]: line for line in map(json.loads, file.read_text().splitlines())}
    ends = {name: line["came"] for name, line in lines.items()}
    assert ends == {
        "fine": "ok",
        "wrong": "wrong",
        "raised": "raised",
        "crashed": "crashed",
        "endless": "timeout",
        "after them": "ok",
    }
    assert lines["fine"]["why"] == "seen"
    assert "one is not two" in lines["wrong"]["why"]
    assert "no such key" in lines["raised"]["why"]
    assert "exit code 7" in lines["crashed"]["why"]
