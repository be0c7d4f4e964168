"""TensorRT-LLM's own unit tests over the embedded engine, as a table by test file.

    python tests/tensorrt_llm_source/run.py SOURCE [FILE ...]

SOURCE: a checkout of TensorRT-LLM 0.16 (the folder that holds `tensorrt_llm` and `tests`); nothing of it is compiled
or changed. FILE: test files below its `tests`, by default those about defining, building and running networks.
`trtllm_ext.embedded` stands at `sys.modules['tensorrt']`; see stand_ins.py for the rest. Needs torch, transformers and
the packages polygraphy, parameterized and einops.

Prints the table in Markdown. Each file runs in a process of its own, for at most ten minutes.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
# Those that need none of TensorRT-LLM's compiled parts are among them; the outcomes show which. The tests of attention
# layers all need its plugins.
FILES = ("functional", "quantization", "test_*.py", "python_plugin")
LIMIT_S = 600


def files_of(source: Path, wanted: list[str]) -> list[Path]:
    tests = source / "tests"
    found: list[Path] = []
    for pattern in wanted or FILES:
        path = tests / pattern
        found += sorted(path.glob("test_*.py")) if path.is_dir() else sorted(tests.glob(pattern))
    return found


def outcomes_of(source: Path, file: Path) -> list[dict[str, str]]:
    """One entry for each test of a file."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report")
        paths = [HERE, ROOT, source, source / "tests", file.parent]
        environment = {
            **os.environ,
            "TENSORRT_LLM_REPORT": str(report),
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
        }
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "plugin_of_source",
            "--noconftest",
            "-q",
            "--tb=short",
        ]
        command += ["-W", "ignore", "-c", os.devnull, "--rootdir", str(source / "tests"), str(file)]
        note = ""
        try:
            done = subprocess.run(
                command,
                env=environment,
                cwd=source / "tests",
                capture_output=True,
                timeout=LIMIT_S,
                check=False,
            )
            if done.returncode not in (0, 1, 2, 5):
                note = f"the process ended with {done.returncode}"
        except subprocess.TimeoutExpired:
            note = f"not done after {LIMIT_S} s"
        lines = report.read_text().splitlines() if report.exists() else []
        found = [json.loads(line) for line in lines]
        if note:
            found.append({"test": file.name, "outcome": "failed", "why": note})
        return found


def main() -> None:
    source = Path(sys.argv[1]).resolve()
    total: Counter[str] = Counter()
    write = sys.stdout.write
    write("| test file | passed | failed | others, with the reason |\n| --- | ---: | ---: | --- |\n")
    failures = []
    for file in files_of(source, sys.argv[2:]):
        found = outcomes_of(source, file)
        counts = Counter(each["outcome"] for each in found)
        total += counts
        others = ", ".join(
            f"{count} {name}" for name, count in counts.items() if name not in ("passed", "failed")
        )
        name = file.relative_to(source / "tests")
        write(f"| {name} | {counts['passed']} | {counts['failed']} | {others} |\n")
        sys.stdout.flush()
        failures += [each for each in found if each["outcome"] in ("failed", "does not import")]
    plain = total["passed"] + total["failed"] + total["does not import"]
    write(
        f"\n{total['passed']} of {plain} tests that need only TensorRT's layers pass; in all: {dict(total)}\n"
    )
    for each in failures:
        write(f"- {each['test']}: {each['why']}\n")


if __name__ == "__main__":
    main()
