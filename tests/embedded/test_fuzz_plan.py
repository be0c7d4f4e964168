"""Damaged, foreign and malicious engines: refused with a reason, never a crash, a hang or a wrong engine.

The first half damages bytes, which checksums must find, every single byte of a plan included. The second half
writes nonsense with right checksums, as an attacker or a broken writer would; there the header's own checks, the
shape program's and ONNX Runtime's must hold.
"""

import copy
import ctypes
import json
import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sampling import examples
from tiny_plans import FeedForward, Log, config_with, feed_forward_plan, parts_of, signed, strongly_typed

import trtllm_ext.embedded as trt
from trtllm_ext.embedded.plan import FORMAT_VERSION, MAGIC, read_plan
from trtllm_ext.embedded.plan.layout import CHUNK_BYTES, PREFIX_BYTES
from trtllm_ext.errors import EngineError

BUDGET_S = 10

USUAL = settings(
    max_examples=examples(150), deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
LONG = settings(max_examples=20_000, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def refit_plan():
    """Named weights that can be exchanged, and debug tensors."""
    builder, model = trt.Builder(Log()), FeedForward()
    network = strongly_typed(builder)
    model.define(network)
    network.set_weights_name(model.w1, "w1")
    network.mark_debug(network.get_layer(1).get_output(0))
    network.mark_debug(network.get_output(0))
    config = config_with(builder, {"x": ((1, 16), (4, 16), (8, 16))})
    config.set_flag(trt.BuilderFlag.REFIT)
    return bytes(builder.build_serialized_network(network, config))


@pytest.fixture(scope="module")
def plan():
    return bytes(feed_forward_plan()[1])


def refusal(data):
    """Why a runtime refuses `data`; fails if it makes an engine of it."""
    log = Log()
    engine = trt.Runtime(log).deserialize_cuda_engine(data)
    assert engine is None
    assert len(log.said) == 1
    assert log.last.startswith("deserialize_cuda_engine: ")
    return log.last


def is_refused(data):
    """Whether reading finds fault with `data`, by the checks alone (no session is made, so this is fast)."""
    try:
        read_plan(memoryview(data)).check_weights(1)
    except EngineError:
        return True
    return False


def test_the_plan_itself_is_accepted(plan):
    assert not is_refused(plan)
    assert trt.Runtime(Log()).deserialize_cuda_engine(plan) is not None


def test_every_byte_is_under_a_checksum(plan):
    damaged = bytearray(plan)
    for position in range(len(plan)):
        damaged[position] ^= 1 << position % 8
        assert is_refused(damaged), f"bit flip at byte {position} of {len(plan)} went unnoticed"
        damaged[position] = plan[position]


def test_every_truncation_is_refused(plan):
    for length in [*range(200), *range(200, len(plan), 97), len(plan) - 1]:
        assert is_refused(plan[:length]), f"{length} of {len(plan)} bytes were accepted"


@pytest.fixture(scope="module")
def shape_plan():
    """An engine with a shape input and two profiles."""
    builder = trt.Builder(Log())
    network = strongly_typed(builder)
    x, to = network.add_input("x", trt.float32, (-1, 4)), network.add_input("to", trt.int32, (2,))
    shuffle = network.add_shuffle(x)
    shuffle.set_input(1, to)
    network.mark_output(shuffle.get_output(0))
    network.get_output(0).name = "y"
    config = config_with(builder, {"x": ((1, 4), (3, 4), (5, 4))}, {"to": ((1, 1), (2, 6), (20, 20))})
    second = builder.create_optimization_profile()
    second.set_shape("x", (6, 4), (6, 4), (6, 4))
    second.set_shape_input("to", (24, 1), (24, 1), (24, 1))
    config.add_optimization_profile(second)
    return bytes(builder.build_serialized_network(network, config))


def layout_of(plan):
    return read_plan(memoryview(plan)).layout


def flipped(plan, position):
    damaged = bytearray(plan)
    damaged[position] ^= 0x10
    return bytes(damaged)


def test_damage_is_named(plan):
    layout = layout_of(plan)
    assert "the first 64 bytes" in refusal(flipped(plan, 20)) or "its first 64 bytes" in refusal(
        flipped(plan, 20)
    )
    assert "checksum of its header is wrong" in refusal(flipped(plan, PREFIX_BYTES + 5))
    assert "checksum of its segments is wrong" in refusal(flipped(plan, layout.segments_offset + 5))
    assert "checksum of its segments is wrong" in refusal(flipped(plan, layout.weights_offset - 1))
    weights = refusal(flipped(plan, layout.weights_offset + 5))
    assert f"weights between bytes {layout.weights_offset} and {layout.trailer_offset}" in weights
    assert "checksum of its trailer is wrong" in refusal(flipped(plan, layout.trailer_offset + 5))
    assert "checksum of its trailer is wrong" in refusal(flipped(plan, len(plan) - 1))


def test_foreign_and_incomplete_files_are_named(plan):
    assert "0 bytes" in refusal(b"")
    assert "not an engine of the embedded kind: it starts with b'ftrt" in refusal(b"ftrt" + bytes(1000))
    assert "not an engine of the embedded kind" in refusal(b"\x80\x04\x95" + bytes(1000))
    assert "truncated: 5 bytes" in refusal(MAGIC[:5])
    assert f"truncated: {len(plan) - 1} of {len(plan)} bytes" in refusal(plan[:-1])
    assert "3 more bytes follow" in refusal(plan + b"abc")
    assert f"plan format 99, this version of trtllm_ext reads format {FORMAT_VERSION}" in refusal(
        plan[:8] + b"\x63\0\0\0" + plan[12:]
    )
    assert "as bytes or a buffer, not as str" in refusal("engine")
    assert "as bytes or a buffer, not as NoneType" in refusal(None)
    assert "contiguous" in refusal(memoryview(plan)[::2])


def test_absurd_lengths_cost_nothing(plan):
    # Lengths of exabytes with a right checksum of the prefix: refused by the size of the file, not by allocating.
    from trtllm_ext.embedded.plan.layout import Layout

    for lengths in ((2**40, 10, 10), (10, 2**62, 10), (10, 10, 2**62), (2**28 + 1, 0, 0)):
        header, segments, weights = lengths
        head = Layout(header_bytes=header, segments_bytes=segments, weights_bytes=weights).pack()
        assert "contradict" in refusal(head + plan) or "truncated" in refusal(head + plan)


def test_damage_in_any_chunk_of_large_weights_is_found_by_any_number_of_threads():
    weights = np.random.default_rng(0).bytes(5 * CHUNK_BYTES + 7)
    header = json.loads(parts_of(feed_forward_plan()[1])[0])
    header["weights"] = [{"offset": 0, "bytes": len(weights)}]
    header["segments"] = [{"offset": 0, "bytes": 1, "weights": []}]
    plan = bytearray(signed(json.dumps(header).encode(), b"m", weights))
    start = layout_of(plan).weights_offset
    for position in (0, CHUNK_BYTES, 3 * CHUNK_BYTES - 1, len(weights) - 1):
        plan[start + position] ^= 1
        for threads in (1, 3, 8):
            with pytest.raises(EngineError, match="1 of 6 checksums are wrong"):
                read_plan(memoryview(plan)).check_weights(threads)
        plan[start + position] ^= 1


# Any bytes at all


def check_any_bytes(data):
    assert is_refused(data)
    refusal(data)


@USUAL
@given(st.binary(max_size=300), st.sampled_from([b"", MAGIC, MAGIC + b"\1\0\0\0\x40\0\0\0"]))
def test_random_bytes_are_refused(tail, head):
    check_any_bytes(head + tail)


@pytest.mark.long
@LONG
@given(st.binary(max_size=3000), st.sampled_from([b"", MAGIC, MAGIC + b"\1\0\0\0\x40\0\0\0"]))
def test_many_random_bytes_are_refused(tail, head):
    check_any_bytes(head + tail)


def check_splice(plan, seed):
    """Overwrite, cut out, double or swap ranges of a plan."""
    rng = random.Random(seed)
    damaged = bytearray(plan)
    for _ in range(rng.randint(1, 4)):
        start, length = rng.randrange(len(damaged)), rng.randint(1, 64)
        source = rng.randrange(len(damaged))
        match rng.randrange(4):
            case 0:
                damaged[start : start + length] = rng.randbytes(length)
            case 1:
                del damaged[start : start + length]
            case 2:
                damaged[start:start] = damaged[source : source + length]
            case 3:
                damaged[start : start + length] = damaged[source : source + length]
    if damaged != plan:
        assert is_refused(bytes(damaged))


@USUAL
@given(st.integers(0, 2**32))
def test_spliced_plans_are_refused(plan, seed):
    check_splice(plan, seed)


@pytest.mark.long
@LONG
@given(st.integers(0, 2**64))
def test_many_spliced_plans_are_refused(plan, seed):
    check_splice(plan, seed)


# Nonsense with right checksums

ODD_VALUES = [
    None,
    True,
    0,
    -1,
    1,
    7,
    2**31,
    2**63,
    -(2**63),
    10**30,
    1.5,
    "",
    "x",
    "y",
    "w",
    [],
    {},
    [[]],
    [0] * 9,
]
ODD_VALUES += ["float16", "int64", "bool", "onnx", "sequence", "input", "output", "NONE"]


def paths_in(value, path=()):
    yield path
    if isinstance(value, dict):
        for key, child in value.items():
            yield from paths_in(child, (*path, key))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from paths_in(child, (*path, index))


def mutated(header, rng, keys=()):
    """A copy of a header with one to three places changed, below one of `keys` if any are given."""
    root = [copy.deepcopy(header)]
    for _ in range(rng.randint(1, 3)):
        paths = [path for path in paths_in(root[0]) if not keys or (path and path[0] in keys)]
        *path, last = (0, *rng.choice(paths or [()]))
        holder = root
        for key in path:
            holder = holder[key]
        old = holder[last]
        match rng.randrange(5):
            case 0 if len(path) > 0:
                del holder[last]
            case 1 if isinstance(holder, list) and len(path) > 0:
                holder.insert(last, copy.deepcopy(old))
            case 2 if isinstance(old, int) and not isinstance(old, bool):
                holder[last] = old + rng.choice([-64, -1, 1, 64])
            case 3 if isinstance(old, dict | list):
                holder[last] = copy.deepcopy(rng.choice(list(old) or [0]))
            case _:
                holder[last] = copy.deepcopy(rng.choice(ODD_VALUES))
    return root[0]


def check_signed_nonsense(plan, seed):
    """Whatever a well-signed plan says: both load modes refuse it, or run it to the same numbers, or not at all."""
    header, segments, weights = parts_of(plan)
    changed = mutated(json.loads(header), random.Random(seed))
    data = signed(json.dumps(changed).encode(), segments, weights)
    prepacked, mapped = results(data, "prepack"), results(data, "mapped")
    assert (prepacked is None) == (mapped is None)
    if prepacked is not None:
        assert set(prepacked) == set(mapped)
        for name, array in prepacked.items():
            np.testing.assert_allclose(array, mapped[name], rtol=1e-4, atol=1e-4)


def results(data, load_mode):
    """The outputs of an engine, empty if it does not run; None if it is refused."""
    log = Log()
    runtime = trt.Runtime(log)
    runtime.load_mode = load_mode
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        assert len(log.said) == 1
        return None
    return exercise(engine)


def exercise(engine, context=None):
    """Run an engine at the optimum of its first profile, if that is small enough; gives the outputs if it ran."""
    context = context or engine.create_execution_context()
    if context is None:  # stripped of weights
        return {}
    kept, outputs = {}, {}
    for name in engine:
        is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        if is_input:
            shape = tuple(engine.get_tensor_profile_shape(name, 0)[1])
            context.set_input_shape(name, shape)
        else:
            shape = tuple(context.get_tensor_shape(name))
        size = np.prod([max(length, 0) for length in shape], dtype=object)
        if size > 1 << 20:
            return {}
        dtype = trt.nptype(engine.get_tensor_dtype(name))
        if is_input and engine.is_shape_inference_io(name):
            kept[name] = np.array([*engine.get_tensor_profile_values(name, 0)[1], 0], dtype)
        elif is_input:
            kept[name] = (np.arange(int(size) + 1) % 7).astype(dtype)
        else:
            kept[name] = outputs[name] = np.zeros(int(size) + 1, dtype)
        context.set_tensor_address(name, kept[name].ctypes.data)
    return outputs if context.execute_async_v3(0) else {}


class Looking(trt.IDebugListener):
    """Reads what it is shown."""

    def process_debug_tensor(self, addr, location, type, shape, name, stream):
        size = int(np.prod(tuple(shape))) * np.dtype(trt.nptype(type)).itemsize
        return ctypes.string_at(addr, size) is not None


def exercise_refit(data):
    """Give an engine weights of the kinds that it says it has, and run it before and after with a debug listener."""
    engine = trt.Runtime(Log()).deserialize_cuda_engine(data)
    if engine is None:
        return
    exercise(engine)
    refitter = trt.Refitter(engine, Log())
    for name in filter(None, refitter.get_all_weights()):
        prototype = refitter.get_weights_prototype(name)
        refitter.set_named_weights(name, np.zeros(prototype.size, trt.nptype(prototype.dtype)))
    refitter.get_all()
    refitter.get_missing()
    refitter.refit_cuda_engine()
    context = engine.create_execution_context()
    if context is not None:
        context.set_debug_listener(Looking())
        context.set_all_tensors_debug_state(True)
        exercise(engine, context)
    engine.serialize()


@USUAL
@given(st.integers(0, 2**32))
def test_well_signed_nonsense_about_refits_never_crashes(refit_plan, seed):
    header, segments, weights = parts_of(refit_plan)
    changed = mutated(json.loads(header), random.Random(seed), ("refit", "debug", "segments", "streamable"))
    exercise_refit(signed(json.dumps(changed).encode(), segments, weights))


def test_a_refittable_plan_is_exercised(refit_plan):
    exercise_refit(refit_plan)


@USUAL
@given(st.integers(0, 2**32))
def test_well_signed_nonsense_never_crashes(plan, shape_plan, seed):
    check_signed_nonsense(plan, seed)
    check_signed_nonsense(shape_plan, seed)


@pytest.mark.long
@LONG
@given(st.integers(0, 2**64))
def test_much_well_signed_nonsense_never_crashes(plan, shape_plan, seed):
    check_signed_nonsense(plan, seed)
    check_signed_nonsense(shape_plan, seed)


def check_segment_nonsense(plan, seed):
    """A damaged ONNX model with right checksums: ONNX Runtime refuses it, or it is a model."""
    rng = random.Random(seed)
    header, segments, weights = parts_of(plan)
    damaged = bytearray(segments)
    for _ in range(rng.randint(1, 3)):
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
    log = Log()
    engine = trt.Runtime(log).deserialize_cuda_engine(signed(header, bytes(damaged), weights))
    assert (engine is None) == bool(log.said)


@pytest.mark.parametrize("load_mode", ["prepack", "mapped"])
@pytest.mark.parametrize("key, value", [("name", "ghost"), ("type", 6), ("shape", [16, 24])])
def test_weights_that_are_not_those_of_the_model_are_refused(plan, load_mode, key, value):
    header, segments, weights = parts_of(plan)
    fields = json.loads(header)
    weight = fields["segments"][0]["weights"][0]
    assert weight[key] != value
    weight[key] = value
    log = Log()
    runtime = trt.Runtime(log)
    runtime.load_mode = load_mode
    assert runtime.deserialize_cuda_engine(signed(json.dumps(fields).encode(), segments, weights)) is None
    assert "segment 0 of the engine has other weights than its header says" in log.last


@settings(parent=USUAL, max_examples=examples(60))
@given(st.integers(0, 2**32))
def test_well_signed_damaged_models_never_crash(plan, seed):
    check_segment_nonsense(plan, seed)
