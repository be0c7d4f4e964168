"""Runtimes and engines: every kind of buffer, both load modes, and answers about tensors."""

import mmap
import subprocess
import sys

import numpy as np
import pytest
from tiny_plans import Log, context_of, feed_forward_plan, run_context, strongly_typed

import trtllm_ext.embedded as trt
from trtllm_ext.errors import ConfigError

BUDGET_S = 25


@pytest.fixture(scope="module")
def built():
    return feed_forward_plan(hidden=64, ffn=96)


@pytest.fixture
def log():
    return Log()


def check(model, context):
    x = np.random.default_rng(5).standard_normal((3, model.hidden)).astype(np.float32)
    y = run_context(context, {"x": x}, {"y": np.float32})["y"]
    np.testing.assert_allclose(y, model.run(x), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("load_mode", ["prepack", "mapped"])
@pytest.mark.parametrize(
    "kind", ["host memory", "bytes", "bytearray", "memoryview", "array", "file", "memmap"]
)
def test_any_buffer_will_do(built, log, kind, load_mode, tmp_path):
    model, plan = built
    path = tmp_path / "rank0.engine"
    path.write_bytes(plan)
    if kind == "file":
        with path.open("rb") as file:
            buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    else:
        buffer = {
            "host memory": lambda: plan,
            "bytes": lambda: bytes(plan),
            "bytearray": lambda: bytearray(plan),
            "memoryview": lambda: memoryview(bytes(plan)),
            "array": lambda: np.frombuffer(bytes(plan), np.uint8).copy(),
            "memmap": lambda: np.memmap(path, np.uint8, "r"),
        }[kind]()
    context = context_of(buffer, log, load_mode)
    if kind in ("bytearray", "array"):
        memoryview(buffer)[:] = bytes(len(buffer))  # its memory was copied, so this does no harm
    del buffer
    check(model, context)
    assert not log.said


@pytest.mark.parametrize("load_mode", ["prepack", "mapped"])
def test_private_pages_of_the_caller_keep_what_was_written_to_them(built, log, load_mode, tmp_path):
    model, plan = built
    path = tmp_path / "rank0.engine"
    path.write_bytes(bytes(len(plan)))
    buffer = np.memmap(path, np.uint8, "c")
    buffer[:] = np.frombuffer(plan, np.uint8)
    buffer.flags.writeable = False
    context = context_of(buffer, log, load_mode)
    assert bytes(buffer) == bytes(plan)
    check(model, context)


def test_an_engine_serializes_to_what_it_was_read_from(built, log):
    model, plan = built
    again = context_of(plan, log).engine.serialize()
    assert bytes(again) == bytes(plan)
    check(model, context_of(again, log))


def test_build_engine_with_config_runs(log):
    builder = trt.Builder(log)
    network = strongly_typed(builder)
    x = network.add_input("x", trt.float32, (2,))
    y = network.add_unary(x, trt.UnaryOperation.NEG).get_output(0)
    y.name = "y"
    network.mark_output(y)
    engine = builder.build_engine_with_config(network, builder.create_builder_config())
    y = run_context(engine.create_execution_context(), {"x": np.float32([1, -2])}, {"y": np.float32})["y"]
    assert y.tolist() == [-1, 2]


def test_an_unknown_load_mode_is_refused(log):
    runtime = trt.Runtime(log)
    assert runtime.load_mode == "prepack"
    with pytest.raises(ConfigError, match=r"load_mode='fast' is not known. Set it to 'prepack' or 'mapped'"):
        runtime.load_mode = "fast"


@pytest.mark.parametrize("value", ["0", "-1", "two", "1e3", "99999"])
def test_a_wrong_number_of_threads_is_refused(built, log, monkeypatch, value):
    monkeypatch.setenv("TRTLLM_EXT_NUM_THREADS", value)
    assert trt.Runtime(log).deserialize_cuda_engine(built[1]) is None
    assert f"TRTLLM_EXT_NUM_THREADS='{value}' is not a number of threads" in log.last


def test_the_number_of_threads_is_counted_once():
    from trtllm_ext.embedded.running.threads import num_threads

    assert 1 <= num_threads() <= 1024


def test_a_pool_that_another_library_made_is_used(built):
    code = """
import sys
sys.path.insert(0, sys.argv[1])
import onnxruntime
onnxruntime.set_global_thread_pool_sizes(1, 1)
from onnx import helper
value = helper.make_tensor_value_info("x", 1, [1])
graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", [value],
                          [helper.make_tensor_value_info("y", 1, [1])])
model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
options = onnxruntime.SessionOptions()
options.use_per_session_threads = False
onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
from tiny_plans import Log, feed_forward_plan, context_of
print(context_of(feed_forward_plan()[1], Log()).engine.name)
"""
    here = __file__.rsplit("/", 1)[0]
    run = subprocess.run([sys.executable, "-c", code, here], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


# What an engine says about its tensors


def test_answers_about_tensors(built, log):
    engine = context_of(built[1], log).engine
    assert engine.num_io_tensors == 2
    assert [engine.get_tensor_name(index) for index in range(2)] == ["x", "y"] == list(engine)
    assert engine.get_tensor_mode("x") == trt.TensorIOMode.INPUT
    assert engine.get_tensor_mode("y") == trt.TensorIOMode.OUTPUT
    assert engine.get_tensor_dtype("y") == trt.float32
    assert tuple(engine.get_tensor_shape("x")) == (-1, 64)
    assert [tuple(shape) for shape in engine.get_tensor_profile_shape("x", 0)] == [(1, 64), (4, 64), (8, 64)]
    assert engine.get_tensor_location("x") == trt.TensorLocation.DEVICE
    assert engine.get_tensor_format("x") == trt.TensorFormat.LINEAR
    assert engine.get_tensor_bytes_per_component("x") == 4
    assert engine.num_layers > 0
    assert engine.get_engine_stat() == 4 * 2 * 64 * 96
    assert engine.streamable_weights_size == engine.device_memory_size_v2 == 0
    assert not log.said


def test_questions_about_other_tensors_are_answered_as_tensorrt_does(built, log):
    engine = context_of(built[1], log).engine
    assert engine.get_tensor_mode("z") == trt.TensorIOMode.NONE
    assert "there is no 'z'; there are 'x', 'y'" in log.last
    assert engine.get_tensor_dtype("z") == trt.float32
    with pytest.raises(ValueError, match="not valid"):
        tuple(engine.get_tensor_shape("z"))
    assert engine.get_tensor_name(2) is None
    assert engine.get_tensor_profile_shape("y", 0) == []
    assert engine.get_tensor_profile_shape("x", 1) == []
    assert engine.get_tensor_profile_values("x", 0) == []
    assert not engine.is_shape_inference_io("z")
    assert engine.get_tensor_bytes_per_component("z") == -1
    assert len(log.said) == 9


# Memory


MEASURE = """
import mmap, sys
sys.path.insert(0, sys.argv[1])
from tiny_plans import Log
import trtllm_ext.embedded as trt

def private_kb():
    lines = open("/proc/self/smaps_rollup").read().splitlines()[1:]
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))

def engine(path, mode):
    with open(path, "rb") as file:
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    runtime = trt.Runtime(Log())
    runtime.load_mode = mode
    return runtime.deserialize_cuda_engine(memory)

engine(sys.argv[2], "mapped")  # libraries, thread pool
before = private_kb()
kept = engine(sys.argv[3], sys.argv[4])
assert kept is not None
print(private_kb() - before)
"""


def test_mapped_engines_take_no_private_memory(built, tmp_path):
    _, small = built
    _, large = feed_forward_plan(hidden=1024, ffn=4096)
    (tmp_path / "small").write_bytes(small)
    (tmp_path / "large").write_bytes(large)
    here = __file__.rsplit("/", 1)[0]

    def private_mb(mode):
        command = [
            sys.executable,
            "-c",
            MEASURE,
            here,
            str(tmp_path / "small"),
            str(tmp_path / "large"),
            mode,
        ]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) / 1024

    weights_mb = large.nbytes / 2**20
    assert private_mb("mapped") < 0.1 * weights_mb
    assert 0.9 * weights_mb < private_mb("prepack") < 1.3 * weights_mb


# Without what is usually there


def test_engines_are_loaded_without_a_folder_to_write_to(built, log, monkeypatch):
    import tempfile

    def no_folder(*_, **__):
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "_get_default_tempdir", no_folder)
    monkeypatch.setattr(tempfile, "tempdir", None)
    model, plan = built
    check(model, context_of(plan, log))
    builder = trt.Builder(log)
    network = strongly_typed(builder)
    network.mark_output(network.add_identity(network.add_input("x", trt.float32, (2,))).get_output(0))
    assert builder.build_serialized_network(network, builder.create_builder_config()) is None
    assert "cannot be written to a temporary file: No usable temporary directory" in log.last


def test_models_find_the_placeholder_of_their_weights():
    from trtllm_ext.embedded.running import sessions
    from trtllm_ext.lowering import WEIGHTS_LOCATION

    assert (sessions._PLACEHOLDER / WEIGHTS_LOCATION).read_bytes() == b""


def released(plan):
    view = memoryview(bytes(plan))
    view.release()
    return view


def closed(plan):
    memory = mmap.mmap(-1, len(plan))
    memory.close()
    return memory


def fortran(plan):
    length = len(plan) // 2 * 2
    array = np.asfortranarray(np.frombuffer(plan, np.uint8, length).reshape(2, -1))
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    "make, reason",
    [
        (released, "cannot be read: operation forbidden on released memoryview"),
        (closed, "cannot be read: mmap closed"),
        (fortran, "contiguous bytes, not as a strided buffer"),
    ],
)
def test_memory_that_cannot_be_read_is_refused(built, log, make, reason):
    assert trt.Runtime(log).deserialize_cuda_engine(make(built[1])) is None
    assert reason in log.last


def test_attributes_that_are_not_there_are_refused(built, log):
    builder = trt.Builder(log)
    context = context_of(built[1], log)
    for holder, name in (
        (builder.create_builder_config(), "max_workspace_size"),
        (builder.create_optimization_profile(), "extra_memory"),
        (builder, "max_batch_size"),
        (context, "profile"),
        (context.engine, "weight_budget"),
        (trt.Runtime(log), "mode"),
    ):
        with pytest.raises(AttributeError, match=name):
            setattr(holder, name, 1)


def test_attributes_that_only_tensorrt_has_say_so(built, log):
    context = context_of(built[1], log)
    assert context.temporary_allocator is None
    context.temporary_allocator = None
    with pytest.raises(
        AttributeError, match=r"IExecutionContext\.temporary_allocator is not supported by the embedded"
    ):
        context.temporary_allocator = object()
    with pytest.raises(AttributeError, match=r"IBuilderConfig\.int8_calibrator is not supported"):
        trt.Builder(log).create_builder_config().int8_calibrator = object()


def test_arguments_of_the_wrong_type_are_named(built, log):
    context = context_of(built[1], log)
    with pytest.raises(TypeError, match="profile_index must be an int, not 'a'"):
        context.set_optimization_profile_async("a", 0)
    with pytest.raises(TypeError, match="index must be an int, not 'a'"):
        context.engine.get_tensor_name("a")
    with pytest.raises(TypeError, match=r"name must be a str, not \[\]"):
        context.engine.get_tensor_mode([])
    with pytest.raises(TypeError, match="profile_index must be an int, not None"):
        context.engine.get_tensor_profile_shape("x", None)
