"""`trtllm-ext serve` as a process of its own, on ports that the system gives, and requests for it."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np


@dataclass
class Server:
    """A server that listens."""

    process: subprocess.Popen
    http_port: int
    grpc_port: int
    metrics_port: int

    def stop(self, timeout_s=30):
        """SIGTERM; returns the exit code and what it said on stderr."""
        self.process.send_signal(signal.SIGTERM)
        _, said = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, said


@contextmanager
def serving(engine_dir, *flags) -> Iterator[Server]:
    """A server of an engine directory; killed at the end, where it still runs."""
    ports = [word for name in ("http", "grpc", "metrics") for word in (f"--{name}_port", "0")]
    command = [sys.executable, "-m", "trtllm_ext", "serve", "--engine_dir", str(engine_dir), *ports, *flags]
    # Threads that wait awake for each other cost a small engine more than it does.
    environment = {**os.environ, "TRTLLM_EXT_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        line = process.stdout.readline()
        ports = [int(number) for number in re.findall(r" on [^ ]*:(\d+)[,;]", line)]
        if len(ports) != 3:
            process.kill()
            raise AssertionError(f"no server: {line} {process.communicate()[1]}")
        yield Server(process, *ports)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def encoder_inputs(*lengths, seed=0):
    """input_ids, attention_mask, token_type_ids of sentences of these lengths, for `small_encoder`'s engines."""
    rng = np.random.default_rng(seed)
    shape = (len(lengths), max(lengths))
    mask = np.arange(shape[1]) < np.array(lengths)[:, None]
    ids = np.where(mask, rng.integers(4, 20, shape), 0)
    return {
        name: array.astype(np.int32)
        for name, array in (("input_ids", ids), ("attention_mask", mask), ("token_type_ids", 0 * ids))
    }


def triton_inputs(client, arrays, datatypes):
    """The arrays as tritonclient's module `client` (http or grpc) sends them."""
    made = []
    for name, array in arrays.items():
        made.append(client.InferInput(name, list(array.shape), datatypes[name]))
        made[-1].set_data_from_numpy(array)
    return made
