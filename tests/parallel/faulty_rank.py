"""A rank of a small program in which one of them goes wrong: faulty_rank.py FAULT [RANK]."""

import os
import signal
import sys
import threading
import time

import numpy as np

from trtllm_ext.parallel import launched_rank, world
from trtllm_ext.parallel.watch.processes import shared_memory

FOREVER_S = 60
fault, culprit = sys.argv[1], int(sys.argv[2])
mine = launched_rank() == culprit


def go_wrong(communicator):
    if fault == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault == "crashed":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif fault == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif fault == "late":
        time.sleep(FOREVER_S)
    elif fault == "raised":
        raise ValueError("half of it is missing")
    elif fault == "left":
        sys.exit(3)
    elif fault == "other operation":
        communicator.all_gather(np.ones(4, np.float32), np.ones(8, np.float32), (0, 1))
    elif fault == "two threads":
        thread = threading.Thread(target=communicator.exchange, args=(None,), daemon=True)
        thread.start()
        time.sleep(0.2)


if mine and fault == "never started":
    time.sleep(FOREVER_S)
if mine and fault == "left early":
    sys.exit(3)
communicator = world()
sys.stdout.write(f"pid {os.getpid()}\n")
for path in shared_memory(os.getpid()):
    sys.stdout.write(f"shared {path}\n")
sys.stdout.flush()
values = np.ones(4096, np.float32)
for step in range(300):
    communicator.all_reduce(values, (0, 1), "max")
    if mine and step == 100:
        go_wrong(communicator)
if mine and fault == "busy":
    with communicator.busy("loading rank1.engine"):
        time.sleep(4)
    communicator.all_reduce(values, (0, 1), "max")
elif fault == "busy":
    communicator.all_reduce(values, (0, 1), "max")
if fault == "last but one" and mine:
    # Rank 0 waits long, and then has something to do at which rank 1 has left.
    time.sleep(1.9)
    communicator.all_reduce(values, (0, 1), "max")
elif fault == "last but one":
    communicator.all_reduce(values, (0, 1), "max")
    time.sleep(0.9)
if mine and fault == "last":
    time.sleep(4)
sys.stdout.write("done\n")
