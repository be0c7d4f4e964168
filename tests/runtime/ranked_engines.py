"""Engine directories of several ranks around y = x + relu(x A) B, A split by columns and B by rows."""

import io
import json
import secrets

import numpy as np
from small_engines import HIDDEN, build, packed

from trtllm_ext.graph import functional
from trtllm_ext.parallel import Communicator
from trtllm_ext.runtime.envelope import Envelope, TensorSummary, crc32_of, ends_digest
from trtllm_ext.runtime.json_files import canonical_digest
from trtllm_ext.runtime.ranks.self_test import SelfTest, write_self_test

INNER = 16
CONTRACT = {"activation": "relu"}


class Wrapped(Communicator):
    """Another communicator; what a test changes about it is overridden."""

    def __init__(self, end):
        self.end = end
        self.rank, self.world_size, self.timeout = end.rank, end.world_size, end.timeout
        self.is_simulated = end.is_simulated

    def all_reduce(self, values, group, op="sum"):
        self.end.all_reduce(values, group, op)

    def all_gather(self, values, gathered, group):
        self.end.all_gather(values, gathered, group)

    def reduce_scatter(self, values, part, group, op="sum"):
        self.end.reduce_scatter(values, part, group, op)

    def broadcast(self, values, group):
        self.end.broadcast(values, group)

    def exchange(self, value):
        return self.end.exchange(value)

    def prepare(self, group):
        self.end.prepare(group)

    def busy(self, what):
        return self.end.busy(what)

    def fail(self, message):
        self.end.fail(message)

    def close(self):
        self.end.close()


def weights(seed=0):
    generator = np.random.default_rng(seed)
    shapes = (HIDDEN, INNER), (INNER, HIDDEN)
    return [generator.normal(size=shape).astype(np.float32) / np.float32(3) for shape in shapes]


def tokens(count, seed=1):
    return np.random.default_rng(seed).normal(size=(count, HIDDEN)).astype(np.float32)


def expected(x, seed=0):
    first, second = weights(seed)
    wide = np.asarray(x, np.float64)
    return wide + np.maximum(wide @ first, 0) @ second


def rank_engine(rank, size, seed=0):
    """The serialized engine of one rank."""
    first, second = weights(seed)
    own = slice(rank * INNER // size, (rank + 1) * INNER // size)

    def define():
        x = packed()
        inner = functional.relu(functional.matmul(x, functional.constant(first[:, own].copy())))
        partial = functional.matmul(inner, functional.constant(second[own].copy()))
        (functional.allreduce(partial, list(range(size))) + x).mark_output("y", "float32")

    return bytes(memoryview(build(define)))


def write_engine_dir(directory, size, *, seed=0, engines=None):
    """An engine directory of `size` ranks with its known answer; engines: instead of those that belong there."""
    directory.mkdir(parents=True)
    build_id = secrets.token_hex(16)
    config = {
        "version": "0.1.0",
        "build_id": build_id,
        "pretrained_config": {"architecture": "Test", "dtype": "float32", "contract": CONTRACT},
        "build_config": {},
    }
    (directory / "config.json").write_text(json.dumps(config))
    for rank in range(size):
        engine = rank_engine(rank, size, seed) if engines is None else engines[rank]
        (directory / f"rank{rank}.engine").write_bytes(engine)
        file = io.BytesIO(engine)
        Envelope(
            engine_kind="embedded",
            engine_version="10.14.1",
            compute_capability="cpu",
            build_id=build_id,
            contract_sha256=canonical_digest(CONTRACT),
            config_sha256=canonical_digest(config),
            rank=rank,
            world_size=size,
            engine_bytes=len(engine),
            engine_crc32=crc32_of(file),
            engine_ends_sha256=ends_digest(file, len(engine)),
            built_by="trtllm_ext 0.1.0",
            inputs=(
                TensorSummary(
                    name="x", dtype="float32", shape=(-1, HIDDEN), dim_names=("num_tokens", "hidden")
                ),
            ),
            outputs=(TensorSummary(name="y", dtype="float32", shape=(-1, HIDDEN)),),
        ).write(directory / f"rank{rank}.envelope.json")
    write_known_answer(directory, build_id, seed)
    return directory


def write_known_answer(directory, build_id, seed=0):
    x = tokens(3, seed=9)
    write_self_test(directory, SelfTest(build_id, {"x": x}, {"y": expected(x, seed).astype(np.float32)}))
