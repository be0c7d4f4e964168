"""docker/choose_packages.py: an image's own packages stay, unless one that comes to it does not work with them."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

BUDGET_S = 6
PROGRAM = Path(__file__).parents[2] / "docker/choose_packages.py"


@pytest.fixture
def chosen(tmp_path):
    """chosen(wheels, image): the names taken, or why not. wheels: name -> what it needs; image: versions."""

    def choose(wheels, image):
        for name, needs in wheels.items():
            lines = "".join(f"Requires-Dist: {need}\n" for need in needs)
            with zipfile.ZipFile(tmp_path / f"{name}-2.0-py3-none-any.whl", "w") as archive:
                archive.writestr(f"{name}-2.0.dist-info/METADATA", f"Name: {name}\nVersion: 2.0\n{lines}")
        for name, version in image.items():
            info = tmp_path / "image" / f"{name}-{version}.dist-info"
            info.mkdir(parents=True)
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        # What this environment has is not of the image; `packaging` alone is needed.
        code = (
            "import importlib.metadata as m, runpy, sys; found = m.distributions; "
            f"m.distributions = lambda: found(path=[{str(tmp_path / 'image')!r}]); "
            f"sys.argv = [{str(PROGRAM)!r}, {str(tmp_path)!r}]; runpy.run_path(sys.argv[0], run_name='__main__')"
        )
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        names = [Path(line).name.partition("-")[0] for line in run.stdout.splitlines()]
        return names if run.returncode == 0 else run.stderr.strip()

    return choose


def test_only_what_is_lacking_is_taken(chosen):
    wheels = {"trtllm_ext": ["rich>=1", "onnx"], "rich": [], "onnx": [], "mlserver": []}
    assert chosen(wheels, {"rich": "1.5", "onnx": "1.0"}) == ["mlserver", "trtllm_ext"]


def test_what_does_not_work_with_one_that_is_taken_is_taken_too(chosen):
    wheels = {"mlserver": ["fastapi<3,>=2"], "fastapi": ["starlette>=2"], "starlette": []}
    assert chosen(wheels, {"fastapi": "3.0", "starlette": "1.0"}) == ["fastapi", "mlserver", "starlette"]


def test_needs_of_extras_and_other_machines_do_not_count(chosen):
    needs = ["numpy>=9; extra == 'more'", "torch>9; sys_platform == 'win32'", "a-client"]
    assert chosen({"mlserver": needs}, {"numpy": "1.26", "torch": "2.9"}) == ["mlserver"]


@pytest.mark.parametrize(
    "package", ["tensorrt", "torch", "numpy", "mpi4py", "nvidia-nccl-cu13", "tensorrt-cu13-libs"]
)
def test_what_belongs_to_tensorrt_is_never_replaced(chosen, package):
    said = chosen({"onnxruntime": [f"{package}>=2"], package.replace("-", "_"): []}, {package: "1.9"})
    assert said == f"onnxruntime needs {package}>=2, and the image has 1.9, which it keeps"


def test_a_need_that_nothing_meets_is_told(chosen):
    assert chosen({"mlserver": ["grpcio>=2"]}, {"grpcio": "1.0"}) == (
        "mlserver needs grpcio>=2, and the image has 1.0, which it keeps"
    )
