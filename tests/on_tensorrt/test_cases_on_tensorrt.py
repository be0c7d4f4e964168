"""Every case of the scripts beside this file, on NVIDIA's TensorRT; and what becomes of cases that do not end well.

The cases need NVIDIA's `tensorrt` and a GPU; the scripts themselves run many of them side by side.
"""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import cases
import pytest
import table

from trtllm_ext import backend

BUDGET_S = 8

HERE = Path(__file__).parent
SCRIPTS = ("definitions", "faults", "forms", "refit", "sessions", "settings", "wrong_engines")
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


@pytest.fixture
def real_tensorrt():
    found = backend.probe_tensorrt()
    if found.module is None:
        pytest.skip(f"NVIDIA's TensorRT is needed: {found.detail}")


@pytest.mark.parametrize(("script", "name"), list(all_cases()))
def test_case(real_tensorrt, script, name):
    line = cases.run_case(str(HERE / f"{script}_on_tensorrt.py"), name, LIMIT_S, "tensorrt")
    refused_as_it_should = line["came"] == "refused" and line["dtype"] == "bfloat16"
    assert line["came"] == "ok" or refused_as_it_should, line


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


def test_the_batch_begins_with_faults_and_leaves_nothing_out():
    batch = import_module("batch_on_tensorrt").CASES
    others = 4  # networks that say the same by other layers
    assert len(batch) - others == sum(
        len(import_module(f"{each}_on_tensorrt").CASES)
        for each in ("faults", "forms", "refit", "definitions")
    )
    assert next(iter(batch)) == "float32 gpt2: one weight changed"


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
