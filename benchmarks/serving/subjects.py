"""What the benchmarks of serving serve: engines of random weights, with short inputs, each by a process."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Arrays = dict[str, np.ndarray]
SENTENCE_TOKENS = 8


def build_encoder(folder: Path, *, hidden: int, layers: int, heads: int, vocab: int = 2000) -> Path:
    """An Encoder of all-MiniLM-L6-v2's form in FOLDER/engine, for 32 sentences of up to 64 tokens."""
    import trtllm_ext as tx
    from trtllm_ext.models import encoder_config, write_random_checkpoint

    config = encoder_config(
        hidden_size=hidden,
        ffn_hidden_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        vocab_size=vocab,
        max_position_embeddings=64,
    )
    write_random_checkpoint(folder / "checkpoint", config)
    limits = tx.BuildConfig(max_batch_size=32, max_input_len=64)
    tx.build_engine_dir(folder / "checkpoint", folder / "engine", limits)
    return folder / "engine"


def build_stack(folder: Path, *, hidden: int, ffn: int, layers: int) -> Path:
    """A SublayerStack in FOLDER/engine, for 64 tokens."""
    import trtllm_ext as tx
    from trtllm_ext.models import sublayer_stack_config, write_random_checkpoint

    config = sublayer_stack_config(hidden_size=hidden, ffn_hidden_size=ffn, num_hidden_layers=layers)
    write_random_checkpoint(folder / "checkpoint", config)
    tx.build_engine_dir(folder / "checkpoint", folder / "engine", tx.BuildConfig(max_num_tokens=64))
    return folder / "engine"


def sentence(seed: int, *, sentences: int = 1, tokens: int = SENTENCE_TOKENS, vocab: int = 2000) -> Arrays:
    """An encoder's inputs, int32 [sentences, tokens] each, without padding."""
    ids = np.random.default_rng(seed).integers(0, vocab, (sentences, tokens)).astype(np.int32)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def token(seed: int, *, hidden: int) -> Arrays:
    """A stack's input, float32 [1, hidden]."""
    return {"hidden_states": np.random.default_rng(seed).normal(size=(1, hidden)).astype(np.float32)}


@dataclass
class Server:
    """A server that listens on 127.0.0.1."""

    process: subprocess.Popen[str]
    http_port: int
    grpc_port: int
    metrics_port: int

    def resident_mb(self) -> float:
        """Resident memory now."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def processor_seconds(self) -> float:
        """User and system time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def held(self) -> tuple[int, int]:
        """Open files and threads now."""
        files, threads = (
            sum(1 for _ in Path(f"/proc/{self.process.pid}/{kind}").iterdir()) for kind in ("fd", "task")
        )
        return files, threads


@contextmanager
def served(engine_dir: Path, *flags: str) -> Iterator[Server]:
    """`trtllm-ext serve` of an engine directory as the model "engine", on ports that the system gives.

    Raises SystemExit where it does not start, or does not end well.
    """
    ports = [word for name in ("http", "grpc", "metrics") for word in (f"--{name}_port", "0")]
    command = [sys.executable, "-m", "trtllm_ext", "serve", "--engine_dir", str(engine_dir), *ports, *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        found = [int(number) for number in re.findall(r" on [^ ]*:(\d+)[,;]", line)]
        if len(found) != 3:
            raise SystemExit(f"no server: {line}")
        yield Server(process, *found)
        process.send_signal(signal.SIGTERM)
        if code := process.wait(30):
            raise SystemExit(f"the server ended with exit code {code}")
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()
