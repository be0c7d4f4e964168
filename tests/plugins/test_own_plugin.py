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
