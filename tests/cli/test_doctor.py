"""`trtllm-ext doctor`: the reasoning, and a fix for each problem."""

import json
import os
import re
import subprocess
import sys
from functools import cache
from types import SimpleNamespace

import pytest

from trtllm_ext import backend
from trtllm_ext.cli import device_findings
from trtllm_ext.cli import doctor as doctor_module
from trtllm_ext.cli.plugin_findings import plugin_findings
from trtllm_ext.errors import BackendError
from trtllm_ext.runtime import cuda

BUDGET_S = 20


@cache  # a process takes half a second
def doctor(*options, **environment):
    command = [sys.executable, "-m", "trtllm_ext.cli.main", "doctor", *options]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )


def findings(**environment):
    run = doctor("--json", **environment)
    answer = json.loads(run.stdout)
    assert run.returncode == (0 if answer["ok"] else 1)
    return {finding["subject"]: finding for finding in answer["findings"]}


def test_it_tells_the_engine_and_why():
    found = findings(TRTLLM_EXT_BACKEND="embedded")
    assert found["engine"]["text"] == "embedded, as TRTLLM_EXT_BACKEND=embedded asks"
    assert found["graph API"]["state"] == "ok"
    assert "ran on the embedded engine" in found["support"]["text"]
    assert found["onnxruntime"]["state"] == "ok"


def test_the_table_has_what_the_json_has():
    """In lines that a terminal holds; but for the lines' ends, the words are the same."""
    told = doctor(TRTLLM_EXT_BACKEND="embedded").stdout
    assert max(len(line) for line in told.splitlines() if " " in line.strip()) <= 100
    table = " ".join(told.split())
    for subject, finding in findings(TRTLLM_EXT_BACKEND="embedded").items():
        assert subject in table
        assert finding["text"] in table
        assert finding["fix"] in table


@pytest.mark.parametrize(
    ("variable", "value", "subject", "says"),
    [
        ("TRTLLM_EXT_BACKEND", "gpu", "engine", "it takes one of auto, tensorrt, embedded"),
        ("TRTLLM_EXT_NUM_THREADS", "many", "threads", "is not a number of threads"),
    ],
)
def test_a_problem_fails_with_its_fix(variable, value, subject, says):
    run = doctor("--json", **{variable: value})
    assert run.returncode == 1
    problems = [each for each in json.loads(run.stdout)["findings"] if each["state"] == "problem"]
    assert [problem["subject"] for problem in problems] == [subject]
    assert says in problems[0]["text"]
    assert problems[0]["fix"]


def test_it_tells_of_the_ranks_that_share_the_cores():
    launched = {"PMI_RANK": "0", "PMI_SIZE": "4096", "MPI_LOCALNRANKS": "4096", "TRTLLM_EXT_NUM_THREADS": ""}
    text = findings(**launched)["threads"]["text"]
    assert text.startswith("1 for the embedded engine, as one of 4096 ranks on this host (")


def test_whatever_is_absent_has_its_fix():
    absent = [each for each in findings().values() if each["state"] == "absent"]
    assert [each["subject"] for each in absent if not each["fix"]] == []


def library(path, tensorrt="10.14.1"):
    """A file that says of itself what the compiled plugins do."""
    info = {
        "tensorrt": tensorrt,
        "tensorrt_major": int(tensorrt.partition(".")[0]),
        "kernels_abi": 1,
        "cuda": "13.0",
        "architectures": "90a",
        "plugins": [],
    }
    path.write_text(f"TRTLLM_EXT_PLUGINS_INFO_BEGIN{json.dumps(info)}TRTLLM_EXT_PLUGINS_INFO_END")
    return str(path)


@pytest.fixture
def nothing_built(monkeypatch, tmp_path):
    for variable in ("TRTLLM_EXT_PLUGINS", "TRTLLM_EXT_KERNELS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("trtllm_ext.runtime.own_plugins.PACKAGE_DATA", tmp_path / "none")
    monkeypatch.setattr("trtllm_ext.plugin.kernels._PACKAGE_DATA", tmp_path / "none")


@pytest.mark.usefixtures("nothing_built")
def test_plugins_and_kernels(monkeypatch, tmp_path):
    def found():
        return {each.subject: each for each in plugin_findings()}

    assert {each.state for each in found().values()} == {"absent"}
    assert all("make plugins" in each.fix for each in found().values())
    monkeypatch.setenv("TRTLLM_EXT_PLUGINS", library(tmp_path / "some.so"))
    assert "some.so, for TensorRT 10.14.1, CUDA 13.0, 90a; not in use" in found()["plugins"].text
    assert found()["kernels"].text == str(tmp_path / "some.so")
    monkeypatch.setenv("TRTLLM_EXT_PLUGINS", "nowhere.so")
    assert found()["plugins"].state == "absent" and "nowhere.so" in found()["plugins"].text


@pytest.mark.usefixtures("nothing_built")
def test_a_variable_that_is_passed_over_is_told_of(monkeypatch, tmp_path):
    def found():
        return {each.subject: each for each in plugin_findings()}

    monkeypatch.setenv("TRTLLM_EXT_KERNELS", "nowhere.so")
    assert found()["kernels"].state == "absent" and "nowhere.so, which the env" in found()["kernels"].text
    (tmp_path / "none").mkdir()
    path = library(tmp_path / "none/libtrtllm_ext_plugins.so")
    assert found()["kernels"].text.startswith(f"{path}; TRTLLM_EXT_KERNELS=nowhere.so is not used: ")
    assert found()["plugins"].text.endswith("has its own")
    monkeypatch.setenv("TRTLLM_EXT_PLUGINS", "other.so")
    assert found()["plugins"].text.endswith(
        "; TRTLLM_EXT_PLUGINS=other.so is not used: the package's own comes first"
    )


@pytest.mark.usefixtures("nothing_built")
def test_plugins_for_another_tensorrt(monkeypatch, tmp_path):
    monkeypatch.setattr(backend, "choice", lambda: backend.Choice("tensorrt", "trtllm_ext", ()))
    monkeypatch.setattr(backend, "tensorrt", lambda: SimpleNamespace(__version__="10.14.1"))

    def found(version):
        monkeypatch.setenv("TRTLLM_EXT_PLUGINS", library(tmp_path / "some.so", version))
        return next(plugin_findings())

    assert found("10.9.0").state == "ok"
    finding = found("8.6.1")
    assert finding.state == "problem" and finding.fix
    assert "was built for TensorRT 8.6.1, but TensorRT 10.14.1 is in use" in finding.text


def test_packages_that_are_missing_are_had_without_this_one_in_an_index(monkeypatch):
    monkeypatch.setattr(doctor_module, "_version", lambda package: None)
    packages = [*doctor_module.CORE_PACKAGES, *doctor_module.EXTRAS]
    fixes = {each.subject: each.fix for each in doctor_module.examine()}
    assert [fixes[name] for name in packages] == [f"pip install {name}" for name in packages]
    assert not [fix for fix in (*fixes.values(), *cuda.WAYS_TO_BUFFERS) if "trtllm-ext" in fix]


def test_nvidia_s_packages_that_are_not_installed(monkeypatch):
    monkeypatch.setattr(doctor_module, "_version", lambda package: None)
    found = {each.subject: each for each in doctor_module.examine()}
    assert found["tensorrt"].state == found["tensorrt_llm"].state == "absent"
    assert found["tensorrt"].fix.startswith("on a machine with an NVIDIA GPU: pip install tensorrt")
    assert "tensorrt_llm" in found["tensorrt_llm"].fix


def test_nvidia_s_packages_that_are_installed_but_not_in_use(monkeypatch):
    monkeypatch.setenv("TRTLLM_EXT_BACKEND", "embedded")
    monkeypatch.setattr(doctor_module, "_version", lambda package: "10.14")
    found = {each.subject: each for each in doctor_module.examine()}
    assert found["tensorrt"].text == "10.14; not in use: embedded, as TRTLLM_EXT_BACKEND=embedded asks"
    assert found["tensorrt_llm"].text.startswith("10.14; not in use: trtllm_ext.graph, ")


def test_mpi_launchers_are_found_on_the_path(tmp_path):
    launcher = tmp_path / "mpirun"
    launcher.write_text("#!/bin/sh\n")
    launcher.chmod(0o755)
    found = findings(PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert found["MPI launcher"]["state"] == "ok"
    assert str(launcher) in found["MPI launcher"]["text"]


def test_mpi4py_with_its_library_and_without():
    pytest.importorskip("mpi4py", reason="mpi4py is not installed")
    broken = findings(MPI4PY_LIBMPI="/nowhere/libmpi.so")["mpi4py"]
    assert broken["state"] == "absent"
    assert broken["text"] == "installed, but finds no MPI library"
    assert broken["fix"] == "pip install mpich"
    found = findings()["mpi4py"]
    if found["state"] == "ok":  # no library is needed for these tests
        assert re.match(r"\d+\.\d+\S*, with \S", found["text"])


def test_mpi4py_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(doctor_module, "_version", lambda package: None)
    found = {each.subject: each for each in doctor_module.examine()}["mpi4py"]
    assert (found.state, found.fix) == ("absent", "pip install mpi4py mpich")


def test_the_library_of_device_buffers(monkeypatch):
    """Each outcome by its own sentence: none needed, one in use, none to be had."""
    told = []
    for engine, serves in (("embedded", False), ("tensorrt", True), ("tensorrt", False)):
        choice = backend.Choice(engine, "trtllm_ext", ())
        monkeypatch.setattr(backend, "choice", lambda choice=choice: choice)

        def opened(serves=serves):
            if not serves:
                raise BackendError("no library for device memory can be used")
            return SimpleNamespace(library="torch 2.9")

        monkeypatch.setattr(cuda, "device_buffers", opened)
        told += device_findings._device_buffers()
    assert [finding.state for finding in told] == ["ok", "ok", "problem"]
    assert [finding.text for finding in told] == [
        "none needed: the embedded engine works in host memory",
        "through torch 2.9",
        "no library for device memory can be used",
    ]
    assert "pip install cuda-python" in told[2].fix


@pytest.mark.parametrize(
    ("given", "code", "says"),
    [
        (
            {"TRTLLM_EXT_BACKEND": "embedded"},
            0,
            "healthy: trtllm_ext .*, engine: embedded, as TRTLLM_EXT_BACKEND",
        ),
        ({"TRTLLM_EXT_BACKEND": "gpu"}, 1, r"unhealthy: engine: .*'gpu' is not known.* \(to mend it: unset "),
        (
            {"TRTLLM_EXT_BACKEND": "embedded", "TRTLLM_EXT_NUM_THREADS": "many"},
            1,
            r"unhealthy: threads: .*'many' is not a number of threads.* \(to mend it: unset TRTLLM_EXT_NUM_THREADS\)$",
        ),
    ],
)
def test_quick_is_one_sentence_in_less_than_a_second(given, code, says):
    before = os.times()
    run = doctor("--quick", **given)
    after = os.times()
    assert (run.returncode, run.stderr, run.stdout.count("\n")) == (code, "", 1)
    assert re.match(says, run.stdout), run.stdout
    seconds = sum(after[2:4]) - sum(
        before[2:4]
    )  # of the processor: of others' work on this machine it knows nothing
    assert seconds < 1


def test_quick_imports_nothing_that_takes_seconds(monkeypatch, capsys):
    """With a TensorRT whose device answers: tensorrt_llm and torch would come with the whole choice."""
    monkeypatch.setenv("TRTLLM_EXT_BACKEND", "auto")
    monkeypatch.setattr(
        backend, "probe_tensorrt", lambda: backend.Probe("a device answers", SimpleNamespace())
    )
    monkeypatch.setattr(backend, "probe_tensorrt_llm", lambda: pytest.fail("imports tensorrt_llm"))
    monkeypatch.setattr(cuda, "device_buffers", lambda: pytest.fail("imports torch"))
    assert doctor_module.run(SimpleNamespace(quick=True)) == 0
    assert capsys.readouterr().out.endswith("engine: tensorrt, since a device answers\n")


def test_quick_names_the_first_problem_and_counts_the_others(monkeypatch, capsys):
    monkeypatch.setenv("TRTLLM_EXT_BACKEND", "embedded")
    monkeypatch.setattr(doctor_module, "_version", lambda package: None)
    assert doctor_module.run(SimpleNamespace(quick=True)) == 1
    others = len(doctor_module.CORE_PACKAGES) - 1
    assert f"numpy: not installed; the core needs it (to mend it: pip install numpy; {others} more: " in (
        capsys.readouterr().out
    )


def test_no_command_lets_onnxruntime_report_its_use(tmp_path):
    """Its packages for Linux leave an identifier in the cache of whoever lets them, before they report anything."""
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    assert doctor("--quick", TRTLLM_EXT_BACKEND="embedded", **home).returncode == 0
    assert list(tmp_path.iterdir()) == []
