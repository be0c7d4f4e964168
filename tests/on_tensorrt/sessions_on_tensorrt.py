"""Engines as they are run on TensorRT: profiles, sizes, the device memory, two at a time.

    PYTHONPATH=.:tests python tests/on_tensorrt/sessions_on_tensorrt.py FILE [--processes N] [...]

A case's line has `why`: what was seen. What the library in use lacks has to be refused by a sentence, which is told.
"""

import functools
import sys
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Any

import cases
import engines
import numpy as np
from checks import AGREE, Checks, Model, refusal
from engines import command, difference
from small_models import MAX_TOKENS, tokens

import trtllm_ext as tx
from trtllm_ext.graph import functional

CASES = Checks()


def profile(folder: Path) -> str:
    """All sizes in the profile give what is right; one more token is refused."""
    model = Model(folder)
    directory = model.build()
    right = model.check(directory)
    too_many = [tokens(model.config, MAX_TOKENS + 1)]
    sentence = refusal(lambda: engines.run(directory, too_many, on=model.on), str(MAX_TOKENS))
    return f"{right}; one token more is {sentence}"


def two_profiles(folder: Path) -> str:
    """A network of two ranges of lengths: each is chosen by its shape, and what lies between is refused."""
    weight = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    ranges = OrderedDict(num_tokens=[[1, 1, 1], [4, 8, 16]], hidden=[8, 8])
    seen = []
    for number in (None, 1):
        builder = tx.Builder()
        config = builder.create_builder_config(precision="float32", tf32=False, force_num_profiles=number)
        network = builder.create_network()
        with tx.net_guard(network):
            x = tx.Tensor(name="x", dtype="float32", shape=[-1, 8], dim_range=ranges)
            functional.relu(functional.matmul(x, functional.constant(weight))).mark_output("y", "float32")
        with tx.Session.from_serialized_engine(builder.build_engine(network, config)) as session:
            allowed = (1, 4, 16, 1, 7) if number is None else (1, 1)
            for count in allowed:
                x = np.random.default_rng(count).normal(size=(count, 8)).astype(np.float32)
                worst, _ = difference(session.run({"x": x}), {"y": np.maximum(x @ weight, 0)})
                assert worst <= AGREE, (count, worst)
            between = np.zeros((2, 8), np.float32)
            seen.append(f"lengths {allowed} are right, 2 is {refusal(partial(session.run, {'x': between}))}")
    return " | with force_num_profiles=1 ".join(seen)


for each in (profile, two_profiles):
    CASES.enter(each)


def many_lengths(folder: Path) -> str:
    """One session, lengths up and down, twice each: buffers grow and what was left in them is not seen."""
    model = Model(folder)
    directory = model.build()
    every = [tokens(model.config, count) for count in (1, 32, 2, 17, 32, 1, 31)]
    got, want = engines.run(directory, every, on=model.on), []
    want = engines.run(model.build("right", on="embedded"), every, on="embedded")
    worst = max(difference(one, other)[0] for one, other in zip(got, want, strict=True))
    assert worst <= AGREE, worst
    return f"seven runs of one session, right within {worst:.1e}"


CASES.enter(many_lengths)


def device_buffers(folder: Path) -> str:
    """Arrays of one byte to half a GiB go to the device and come back as they were."""
    if cases.engine() == "embedded":
        return "the embedded engine has no device"
    from trtllm_ext.runtime import cuda

    copies, seen = cuda.DeviceCopies(), []
    rng = np.random.default_rng(0)
    for nbytes in (1, 3, 4096, 1 << 20, (1 << 24) + 5, 1 << 29, 2, 1 << 22):
        array = rng.integers(0, 256, nbytes, np.uint8)
        back = np.zeros_like(array)
        pointer = copies.room("array", nbytes)
        copies.cuda.upload(pointer, array.ctypes.data, nbytes)
        copies.cuda.synchronize(0)
        copies.cuda.download(back.ctypes.data, pointer, nbytes)
        assert np.array_equal(array, back), f"{nbytes} bytes came back otherwise"
        seen.append(nbytes)
    copies.close()
    return f"{len(seen)} sizes up to {max(seen)} bytes, through {copies.cuda.library}"


def two_sessions(folder: Path) -> str:
    """Two engines in one process, in turns."""
    first, second = Model(folder), Model(folder, "llama_swiglu", seed=2)
    with (
        tx.Session.from_engine_dir(first.build("first")) as one,
        tx.Session.from_engine_dir(second.build("second")) as two,
    ):
        worst = 0.0
        for number, inputs in enumerate(zip(first.inputs, second.inputs, strict=True)):
            for session, model, given in zip((one, two), (first, second), inputs, strict=True):
                worst = max(worst, difference(session.run(given), _rights(model)[number])[0])
    assert worst <= AGREE, worst
    return f"right within {worst:.1e}"


@functools.cache
def _rights(model: Model) -> list[engines.Arrays]:
    return model.run(model.build(f"right{id(model)}", on="embedded"), on="embedded")


def surgery(folder: Path, dtype: str) -> str:
    """Runs that leave the stream as it is, and runs that drop a contribution and add to the stream."""
    model = Model(folder, dtype=dtype)
    settings: dict[str, Any] = {"surgery": ["*"]}
    directory = model.build(**settings)
    untouched = model.check(directory)
    rng = np.random.default_rng(3)
    changed = []
    for each in model.inputs:
        more = rng.normal(size=each["hidden_states"].shape).astype(each["hidden_states"].dtype)
        dropped = {"transformer.layers.0.mlp.contribution.scale": np.zeros(1, np.float32)}
        changed.append({**each, **dropped, "transformer.layers.1.mlp.before.add": more})
    want = engines.run(model.build("right", on="embedded", **settings), changed, on="embedded")
    got = engines.run(directory, changed, on=model.on)
    worst = max(difference(one, other)[0] for one, other in zip(got, want, strict=True))
    assert worst <= model.allowed, worst
    moved = min(difference(one, other)[0] for one, other in zip(want, model.right, strict=True))
    assert moved > 10 * model.allowed, moved
    return f"{untouched} unchanged; changed, which moves it by {moved:.1e}, right within {worst:.1e}"


for each in ("float32", "float16"):
    CASES.enter(surgery, each, name=f"surgery, {each}")


def doctor(folder: Path) -> str:
    return command("doctor", on=cases.engine())


for each in (device_buffers, two_sessions, doctor):
    CASES.enter(each)

if __name__ == "__main__":
    sys.exit(cases.main(__file__, CASES))
