"""Wheels: pure without a library of plugins, for this kind of machine with one, which is then inside."""

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

BUDGET_S = 2

REPOSITORY = Path(__file__).parents[2]
BUILD = "from setuptools.build_meta import build_wheel; print(build_wheel('wheels'))"


@pytest.fixture
def small_tree(tmp_path):
    """What a wheel is made by, and as little as possible of what it has inside."""
    for name in ("setup.py", "pyproject.toml", "README.md", "trtllm_ext/version.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / name, tmp_path / name)
    (tmp_path / "trtllm_ext/plugin").mkdir()
    for package in ("trtllm_ext", "trtllm_ext/plugin"):
        (tmp_path / package / "__init__.py").touch()
    return tmp_path


def wheel_of(tree):
    built = subprocess.run([sys.executable, "-c", BUILD], cwd=tree, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    wheel = tree / "wheels" / built.stdout.splitlines()[-1]
    return wheel.name, zipfile.ZipFile(wheel).namelist()


def test_a_wheel_without_libraries_is_for_all_machines(small_tree):
    name, files = wheel_of(small_tree)
    assert name.endswith("-py3-none-any.whl")
    assert not [file for file in files if file.endswith(".so")]


def test_a_wheel_with_a_library_is_for_this_kind_of_machine(small_tree):
    library = small_tree / "trtllm_ext/plugin/lib/libtrtllm_ext_kernels.so"
    library.parent.mkdir()
    library.write_bytes(b"not a real one")
    name, files = wheel_of(small_tree)
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    assert name.endswith(f"-py3-none-{platform}.whl")
    assert "trtllm_ext/plugin/lib/libtrtllm_ext_kernels.so" in files
    assert "trtllm_ext/version.py" in files
