"""compute-sanitizer over a small selection of the kernels' cases: memcheck, racecheck and synccheck.

    python tests/on_gpu/sanitize.py [--seconds S]     # runs the three side by side; exit code 1 if one complains
    python tests/on_gpu/sanitize.py --cases           # the cases by themselves, as the three run them

Only kernels of this project are instrumented; each tensor is an allocation of its own, so that what is read or written
beside it is seen.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

TOOLS = ("memcheck", "racecheck", "synccheck")
ROOT = Path(__file__).parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--cases", action="store_true")
    parser.add_argument("--seconds", type=float, default=240.0, help="of the three together")
    options = parser.parse_args()
    return _cases() if options.cases else _sanitized(options.seconds)


def _sanitized(seconds: float) -> int:
    sanitizer = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not Path(sanitizer).exists():
        _tell("compute-sanitizer is not here: it comes with CUDA's toolkit")
        return 2
    until, running = time.monotonic() + seconds, {}
    for tool in TOOLS:
        command = [sanitizer, "--tool", tool, "--error-exitcode", "9", *_own_kernels(sanitizer)]
        command += [sys.executable, __file__, "--cases"]
        running[tool] = subprocess.Popen(
            command, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    return max(_told(tool, process, until) for tool, process in running.items())


def _own_kernels(sanitizer: str) -> list[str]:
    """The option that leaves kernels of others alone, as this release takes it; none where it takes neither."""
    for option in ("--kernel-regex", "--filter"):
        given = [option, "kns=trtllm_ext"]
        told = subprocess.run([sanitizer, *given, "/bin/true"], capture_output=True, text=True, check=False)
        # What it does not know it calls an unrecognised option; of a program without CUDA it says something else.
        if "option" not in (told.stdout + told.stderr).lower():
            return given
    _tell("compute-sanitizer takes no filter of kernels: all are looked at, which takes longer")
    return []


def _environment() -> dict[str, str]:
    paths = [ROOT, ROOT / "tests", Path(__file__).parent, os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(str(each) for each in paths if str(each))
    return {**os.environ, "PYTHONPATH": path, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}


def _told(tool: str, process: "subprocess.Popen[str]", until: float) -> int:
    try:
        out, _ = process.communicate(timeout=max(until - time.monotonic(), 1))
    except subprocess.TimeoutExpired:
        process.kill()
        out, _ = process.communicate()
        _tell(f"{tool}: not done in time; its last words: {out[-500:]}")
        return 1
    clean = process.returncode == 0
    _tell(f"{tool}: exit code {process.returncode}\n{out[-600 if clean else -4000 :]}")
    return int(not clean)


def _cases() -> int:
    from kernel_cases import SANITIZED
    from kernel_checks import Lab, check_feed_forward, check_gated_activation, check_residual_norm

    from trtllm_ext.plugin.kernels import load_kernels

    lab = Lab(load_kernels(), "cuda")
    checks = {
        "residual_norm": check_residual_norm,
        "gated_activation": check_gated_activation,
        "feed_forward": check_feed_forward,
    }
    for operation, cases in SANITIZED.items():
        for case in cases:
            checks[operation](lab, case)
        _tell(f"{operation}: {len(cases)} cases are right")
    return 0


def _tell(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
