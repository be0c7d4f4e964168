"""Progress lines on stderr."""

import subprocess
import sys

BUDGET_S = 5

PROGRAM = """
import sys
from trtllm_ext.cli.terminal import progress
sys.stdin.readline()
with progress("build") as tell:
    tell("first", 0)
    tell("second", 0)
print("done")
"""


def test_progress_that_nobody_reads_does_not_end_the_work():
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stderr.close()
    process.stdin.write("go\n")
    process.stdin.flush()
    assert process.stdout.read() == "done\n"
    assert process.wait(timeout=10) == 0


def test_each_step_is_told_once():
    program = PROGRAM.replace('tell("second", 0)', 'tell("first", 5)')
    done = subprocess.run(
        [sys.executable, "-c", program], input="go\n", capture_output=True, text=True, timeout=10, check=True
    )
    assert done.stderr == "build: first\n"
