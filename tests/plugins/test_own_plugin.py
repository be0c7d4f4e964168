"""The library of examples/own_plugin: its tables from the record, its code with nvcc."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from trtllm_ext.plugin import write_operations
from trtllm_ext.runtime.own_plugins import read_info

BUDGET_S = 3

EXAMPLE = Path(__file__).parents[2] / "examples/own_plugin"


def test_its_field_tables_are_written_from_its_record(tmp_path):
    header = tmp_path / "plugins/operations.h"
    given = ["--operations", str(EXAMPLE / "soft_cap.py"), "--output", str(header)]
    assert write_operations.main(given) == 0
    text = header.read_text()
    assert '#define TRTLLM_EXT_PLUGIN_NAMESPACE "own_plugin"' in text
    assert '{"cap", FieldType::FLOAT32, false, 30, "the limit, above 0"},' in text
    assert 'OperationRecord SOFT_CAP{"SoftCap", "1", SOFT_CAP_FIELDS, 2};' in text
    assert write_operations.main([*given, "--check"]) == 0


@pytest.mark.parametrize(
    ("names", "value", "says"),
    [
        (
            "TENSORRT_ROOT",
            "/nowhere",
            "TENSORRT_ROOT=/nowhere has no include/NvInfer.h: name the folder that",
        ),
        (
            "TRTLLM_EXT",
            "/nowhere",
            "TRTLLM_EXT=/nowhere has no plugins/tensorrt, whose sources are compiled along",
        ),
        ("a copy", None, "a clone of trtllm_ext's repository by -DTRTLLM_EXT=..."),
    ],
)
def test_folders_that_lack_something_are_told(tmp_path, names, value, says):
    """Before any compiler is looked for."""
    if shutil.which("cmake") is None:
        pytest.skip("no cmake on the PATH")
    folder = EXAMPLE if value else tmp_path / "here/copy"
    if not value:
        folder.mkdir(parents=True)
        shutil.copy(EXAMPLE / "CMakeLists.txt", folder)
    given = [f"-D{names}={value}"] if value else []
    command = ["cmake", "-S", folder, "-B", tmp_path / "build", *given]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode != 0
    assert says in " ".join(run.stderr.split())


@pytest.mark.long
@pytest.mark.parametrize("release", ["v8.6.1", "v10.14", "v11.1"])
def test_it_builds_with_nvcc(tmp_path, release):
    headers = os.environ.get("TENSORRT_HEADERS")
    missing = [name for name in ("cmake", "nvcc") if shutil.which(name) is None]
    if headers is None or missing:
        pytest.skip(
            f"building needs {', '.join(missing) or 'TENSORRT_HEADERS, a folder with TensorRT headers'}"
        )
    options = [f"-DTENSORRT_ROOT={headers}/{release}", f"-DPython3_EXECUTABLE={sys.executable}"]
    subprocess.run(["cmake", "-S", EXAMPLE, "-B", tmp_path, *options], check=True, capture_output=True)
    subprocess.run(["cmake", "--build", tmp_path, "--parallel", "2"], check=True, capture_output=True)
    info = read_info(tmp_path / "libsoft_cap.so")
    assert f"v{info.tensorrt}".startswith(release)
    assert info.plugins == (("SoftCap", "1", "own_plugin"),)
