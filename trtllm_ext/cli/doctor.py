"""Say which engine and graph API are in use and why, what is installed, and how to mend each problem.

Behind that: for the library in use, which features ran on it, were checked against its signatures, or are not
available, as the project's docs/compatibility.md has it for all libraries; --json adds the test behind each word.
"""

import argparse
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from trtllm_ext import backend
from trtllm_ext.cli import interrupts, support
from trtllm_ext.cli.device_findings import device_findings
from trtllm_ext.cli.finding import Finding
from trtllm_ext.cli.plugin_findings import plugin_findings
from trtllm_ext.cli.terminal import paragraph
from trtllm_ext.errors import BackendError, ConfigError
from trtllm_ext.version import __version__

# What the core cannot run without, and what else is of use for what. pip has each by this name, in a clone as beside an
# installed package; the package itself need not be in an index.
CORE_PACKAGES = ("numpy", "ml_dtypes", "onnx", "onnxruntime", "safetensors", "rich")
EXTRAS = {
    "tokenizers": "sentences as input (trtllm-ext embed)",
    "torch": "torch tensors as input, device buffers under TensorRT",
    "transformers": "reference outputs",
}
# Without starting MPI, which may wait for a launcher.
_LOAD_MPI = (
    "import mpi4py; mpi4py.rc.initialize = False; from mpi4py import MPI; print(MPI.Get_library_version())"
)
# What each is for, and the way to it; in the order of the reasons of `backend.Choice`.
NVIDIA_PACKAGES = {
    "tensorrt": (
        "engines on an NVIDIA GPU",
        "on a machine with an NVIDIA GPU: pip install tensorrt",
    ),
    "tensorrt_llm": (
        "its own graph API in place of trtllm_ext.graph",
        "not needed; tensorrt_llm 0.16 to 1.2.1 has it, none was run on a GPU (the project's docs/trtllm_build.md)",
    ),
}
LAUNCHERS = ("mpirun", "mpiexec", "srun")


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    parser = commands.add_parser(
        "doctor", help="which engine is used and why, and how to mend what is missing"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    form.add_argument(
        "--quick",
        action="store_true",
        help="one sentence on whether engines can run here, in less than a second: for health checks",
    )
    return parser


def run(arguments: argparse.Namespace) -> int:
    if arguments.quick:
        return _quick()
    findings = list(examine())
    interrupts.raise_if_noted()  # what was found while it stopped would be false
    problems = [finding for finding in findings if finding.state == "problem"]
    here = _place()
    if arguments.json:
        answer = {"ok": not problems, "findings": [asdict(finding) for finding in findings]}
        print(json.dumps({**answer, "support": support.as_data(here)}, indent=1))
    else:
        _print_findings(findings)
        if here is not None:
            print(f"\n{support.columns()[here.column]}{'' if here.is_exact else ' (nearest)'}")
            for word, features in support.by_word(here):
                paragraph(f"  {word}: {features}", indent="    ")
    return 1 if problems else 0


def _quick() -> int:
    """What an engine cannot run without, in one sentence; starts no process, asks no network, and imports neither
    tensorrt_llm nor torch, which take seconds."""
    try:
        engine, reason = backend.engine()
        parts = (_core_packages, *((_onnxruntime_runs, _threads) if engine == "embedded" else ()))
        problems = [finding for part in parts for finding in part() if finding.state == "problem"]
    except BackendError as error:
        reason, problems = "", [_no_engine(error)]
    interrupts.raise_if_noted()
    if not problems:
        print(f"healthy: trtllm_ext {__version__}, engine: {reason}")
        return 0
    first = problems[0]
    rest = f"; {len(problems) - 1} more: trtllm-ext doctor" if problems[1:] else ""
    print(f"unhealthy: {first.subject}: {first.text.rstrip('.')} (to mend it: {first.fix}{rest})")
    return 1


def _print_findings(findings: Sequence[Finding]) -> None:
    """A paragraph for each, in columns, and one for the way to mend it."""
    width = max(len(finding.subject) for finding in findings)
    indent = " " * len(f"problem  {'':{width}}  ")
    for finding in findings:
        paragraph(f"{finding.state:7}  {finding.subject:{width}}  {finding.text}", indent)
        if finding.fix:
            paragraph(f"{indent}to mend it: {finding.fix}", indent)


def _place() -> support.Place | None:
    """The column of the table of support that this installation is in; None where no engine can be chosen."""
    try:
        return support.place()
    except BackendError:
        return None


def examine() -> Iterator[Finding]:
    """Every finding on this installation, most deciding first."""
    yield from _engine()
    yield Finding("ok", "trtllm_ext", f"{__version__}, Python {platform.python_version()} ({sys.executable})")
    yield from _core_packages()
    yield from _onnxruntime_runs()
    yield from _threads()
    yield from _extras()
    yield from _nvidia_packages()
    yield from _mpi()
    yield from device_findings()
    yield from plugin_findings()


def _engine() -> Iterator[Finding]:
    try:
        choice = backend.choice()
    except BackendError as error:
        yield _no_engine(error)
        return
    for reason in choice.reasons:
        subject, _, text = reason.partition(": ")
        yield Finding("ok", subject, text)
    here = support.place()
    words = [cell.word for cell in support.cells_of(here).values()]
    counts = ", ".join(f"{words.count(word)} {word}" for word in support.WORDS if word in words)
    where = "listed below; all libraries: the project's docs/compatibility.md"
    yield Finding("ok", "support", f"{here.text}; of {len(words)} features: {counts} ({where})")


def _no_engine(error: BackendError) -> Finding:
    return Finding("problem", "engine", str(error), f"unset {backend.ENVIRONMENT_VARIABLE}, or as said")


def _core_packages() -> Iterator[Finding]:
    for package in CORE_PACKAGES:
        version = _version(package)
        if version:
            yield Finding("ok", package, version)
        else:
            yield Finding("problem", package, "not installed; the core needs it", f"pip install {package}")


def _onnxruntime_runs() -> Iterator[Finding]:
    try:
        import onnxruntime
    except Exception as error:  # a wheel for another libc or CPU fails here in many ways
        yield Finding(
            "problem", "onnxruntime", f"does not import: {error}", "pip install --force-reinstall onnxruntime"
        )
        return
    providers = onnxruntime.get_available_providers()
    if "CPUExecutionProvider" not in providers:
        yield Finding(
            "problem",
            "onnxruntime",
            f"no CPUExecutionProvider among {providers}",
            "install the package onnxruntime",
        )


def _threads() -> Iterator[Finding]:
    from trtllm_ext.embedded.running.threads import THREADS_VARIABLE, num_threads
    from trtllm_ext.parallel.world import ranks_on_host

    ranks = ranks_on_host(os.environ)
    shared = f", as one of {ranks} ranks on this host" if ranks > 1 else ""
    try:
        yield Finding(
            "ok",
            "threads",
            f"{num_threads()} for the embedded engine{shared} ({THREADS_VARIABLE} changes it)",
        )
    except ConfigError as error:
        yield Finding("problem", "threads", str(error), f"unset {THREADS_VARIABLE}")


def _extras() -> Iterator[Finding]:
    for package, purpose in EXTRAS.items():
        version = _version(package)
        if version:
            yield Finding("ok", package, version)
        else:
            yield Finding("absent", package, f"for {purpose}", f"pip install {package}")


def _nvidia_packages() -> Iterator[Finding]:
    """NVIDIA's own packages: their versions, and why each is not in use where it is not."""
    try:
        choice = backend.choice()
    except BackendError:  # told as a problem of the engine
        return
    used = {"tensorrt": choice.engine == "tensorrt", "tensorrt_llm": choice.graph == "tensorrt_llm"}
    for (package, (purpose, fix)), reason in zip(NVIDIA_PACKAGES.items(), choice.reasons, strict=True):
        version = _version(package)
        if version is None:
            yield Finding("absent", package, f"for {purpose}", fix)
        elif used[package]:
            yield Finding("ok", package, version)
        else:
            yield Finding("ok", package, f"{version}; not in use: {reason.partition(': ')[2]}")
    if _version("tensorrt") and (choice.engine, choice.graph) != ("tensorrt", "trtllm_ext"):
        version = str(getattr(sys.modules.get("tensorrt"), "__version__", "")) or str(_version("tensorrt"))
        yield Finding("ok", "tensorrt support", support.place_of("tensorrt", version, "installed").text)


def _mpi() -> Iterator[Finding]:
    version = _version("mpi4py")
    if version is None:
        yield Finding("absent", "mpi4py", "for more than one rank", "pip install mpi4py mpich")
    else:
        library = _mpi_library()
        if library:
            yield Finding("ok", "mpi4py", f"{version}, with {library}")
        else:
            yield Finding("absent", "mpi4py", "installed, but finds no MPI library", "pip install mpich")
    found = [launcher for launcher in LAUNCHERS if shutil.which(launcher)]
    if found:
        yield Finding("ok", "MPI launcher", ", ".join(f"{name} ({shutil.which(name)})" for name in found))
    else:
        yield Finding(
            "absent",
            "MPI launcher",
            "none of " + ", ".join(LAUNCHERS),
            "pip install mpich, or your system's MPI",
        )


def _mpi_library() -> str:
    """The name and version of the library that mpi4py loads; "" if it loads none.

    Tried in a process of its own: a library that does not fit may end it, and one stays loaded.
    """
    try:
        answer = subprocess.run(
            [sys.executable, "-c", _LOAD_MPI], capture_output=True, text=True, timeout=30, check=False
        )
    except subprocess.TimeoutExpired:
        return ""
    lines = answer.stdout.splitlines()
    return " ".join(lines[0].split()) if answer.returncode == 0 and lines else ""


def _version(package: str) -> str | None:
    from importlib import metadata  # takes as long to import as all the commands

    if importlib.util.find_spec(package) is None:
        return None
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "of unknown version"
