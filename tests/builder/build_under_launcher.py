"""A process of a launcher that builds, once for each pair of arguments CHECKPOINT OUTPUT.

Process 0 ends at the first step of building when it is told to: --killed as the first argument.
"""

import os
import signal
import sys

from trtllm_ext import parallel
from trtllm_ext.builder import BuildConfig, build_engine_dir
from trtllm_ext.cli import main as cli


def killed(step, done):
    if step == "rank 0: building":
        os.kill(os.getpid(), signal.SIGKILL)


arguments = sys.argv[1:]
if arguments[0] == "--killed":
    build_engine_dir(
        *arguments[1:], BuildConfig(max_num_tokens=32), communicator=parallel.world(), progress=killed
    )
codes = []
for checkpoint, output in zip(arguments[::2], arguments[1::2], strict=True):
    paths = ["--checkpoint_dir", checkpoint, "--output_dir", output]
    try:
        codes.append(cli.main(["build", *paths, "--max_num_tokens", "32", "--opt_num_tokens", "16"]))
    except SystemExit as end:  # of all processes, in good order
        codes.append(end.code)
    sys.stdout.flush()
(print if parallel.world().rank == 0 else str)(f"codes {codes}")
