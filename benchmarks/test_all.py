"""Runs the whole test suite, long tests included, and writes a summary to results/test_all.md (`make test-all`)."""

import os
import subprocess
import sys
import time
from pathlib import Path

from common import RESULTS, machine

ROOT = Path(__file__).parent.parent


def main() -> int:
    command = [sys.executable, "-m", "pytest", "-m", "", "--durations=15", "-rs"]
    begin = time.perf_counter()
    run = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "HYPOTHESIS_PROFILE": "explore"},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    print(run.stdout)
    took = f"{(time.perf_counter() - begin) / 60:.1f} minutes"
    facts = machine()
    # Where this checkout lies is nobody's business.
    lines = run.stdout.replace(f"{ROOT.resolve()}/", "").splitlines()
    kept = [line for line in lines if line.startswith(("SKIPPED", "FAILED", "BUDGET"))]
    slowest = [line for line in lines if " call " in line or " setup " in line]
    summary = "\n".join([lines[-1] if lines else "no output", *kept, "", "Slowest:", *slowest])
    head = f"# test_all\n\n`make test-all`, {facts['date']}, {took}; {facts['cpu']};\n{facts['versions']}.\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "test_all.md").write_text(f"{head}\n```\n{summary}\n```\n")
    return run.returncode


if __name__ == "__main__":
    sys.exit(main())
