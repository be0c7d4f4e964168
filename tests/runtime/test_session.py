"""Sessions: right numbers, no copies, and a clear refusal of everything that does not fit."""

import re
import threading
from collections import OrderedDict

import numpy as np
import pytest
from small_engines import HIDDEN, build, packed

import trtllm_ext as tx
from trtllm_ext.errors import EngineError, InputError
from trtllm_ext.graph import functional
from trtllm_ext.runtime.run_failure import explain_failure

BUDGET_S = 25


def tokens(count, seed=1):
    return np.random.default_rng(seed).normal(size=(count, HIDDEN)).astype(np.float32)


def expected(x, weight):
    return np.maximum(np.asarray(x, np.float64) @ weight, 0)


def check(got, x, weight):
    assert got.shape == (len(x), HIDDEN)
    np.testing.assert_allclose(np.asarray(got), expected(x, weight), rtol=1e-5, atol=1e-6)


# --- numbers and memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3, 16])
def test_numpy(session, weight, count):
    x = tokens(count)
    outputs = session.run({"x": x})
    assert list(outputs) == ["y"]
    assert isinstance(outputs["y"], np.ndarray)
    check(outputs["y"], x, weight)


def test_torch(session, weight):
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(tokens(3))
    y = session.run({"x": x})["y"]
    assert isinstance(y, torch.Tensor)
    assert y.dtype == torch.float32
    check(y.numpy(), x.numpy(), weight)


def test_torch_is_not_imported_for_numpy(engine, tmp_path):
    import subprocess
    import sys

    (tmp_path / "e.engine").write_bytes(engine)
    code = (
        "import sys, numpy as np, trtllm_ext as tx\n"
        f"session = tx.Session.from_serialized_engine(open({str(tmp_path / 'e.engine')!r}, 'rb').read())\n"
        f"session.run({{'x': np.ones((2, {HIDDEN}), np.float32)}})\n"
        "assert not {'torch', 'tensorrt', 'mpi4py'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_inputs_and_outputs_are_used_in_place(session, weight):
    x, y = tokens(4), np.full((4, HIDDEN), np.nan, np.float32)
    outputs = session.run({"x": x}, {"y": y})
    assert outputs["y"] is y
    check(y, x, weight)
    assert session.context.get_tensor_address("x") == x.ctypes.data
    assert session.context.get_tensor_address("y") == y.ctypes.data
    # New contents of the same arrays count.
    x[:] = tokens(4, seed=2)
    session.run({"x": x}, {"y": y})
    check(y, x, weight)


def test_torch_tensors_are_used_in_place(session, weight):
    torch = pytest.importorskip("torch")
    x, y = torch.from_numpy(tokens(4)), torch.empty(4, HIDDEN)
    assert session.run({"x": x}, {"y": y})["y"] is y
    check(y.numpy(), x.numpy(), weight)
    # The same tensor over other memory.
    x.data = torch.from_numpy(tokens(4, seed=3))
    session.run({"x": x}, {"y": y})
    check(y.numpy(), x.numpy(), weight)


def test_earlier_results_stay(session, weight):
    first, second = tokens(4, 1), tokens(4, 2)
    y1 = session.run({"x": first})["y"]
    y2 = session.run({"x": second})["y"]
    check(y1, first, weight)
    check(y2, second, weight)


def test_sizes_in_any_order(session, weight):
    rng = np.random.default_rng(5)
    for count in rng.integers(1, 17, size=40):
        x = tokens(int(count), int(count))
        y = np.empty_like(x) if count % 2 else None
        check(session.run({"x": x}, {"y": y} if y is not None else None)["y"], x, weight)


def test_an_array_that_was_freed_is_not_mistaken_for_a_new_one(session, weight):
    for seed in range(20):
        x = tokens(3, seed)
        check(session.run({"x": x})["y"], x, weight)
        del x


def test_views_that_are_contiguous(session, weight):
    x = tokens(8)
    check(session.run({"x": x[2:5]})["y"], x[2:5], weight)
    x.flags.writeable = False
    check(session.run({"x": x[:2]})["y"], x[:2], weight)


def test_threads_take_turns(session, weight):
    problems = []

    def work(seed):
        try:
            for index in range(25):
                x = tokens(1 + (seed + index) % 16, seed)
                check(session.run({"x": x})["y"], x, weight)
        except Exception as problem:
            problems.append(problem)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems, problems[0]


def test_both_load_modes(engine):
    x = tokens(5)
    results = [
        tx.Session.from_serialized_engine(engine, load_mode=mode).run({"x": x})["y"]
        for mode in ("prepack", "mapped")
    ]
    np.testing.assert_allclose(results[0], results[1], rtol=1e-6)


def test_from_engine(session, weight):
    x = tokens(2)
    other = tx.Session.from_engine(session.engine)
    check(other.run({"x": x})["y"], x, weight)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int32", "int64", "bool"])
def test_types(dtype):
    import ml_dtypes

    def define():
        functional.view(packed(dtype=dtype), [-1, 2, HIDDEN // 2]).mark_output("y", dtype)

    session = tx.Session.from_serialized_engine(build(define))
    numpy_dtype = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    x = (np.arange(3 * HIDDEN).reshape(3, HIDDEN) % 5 - 1).astype(numpy_dtype)
    y = session.run({"x": x})["y"]
    assert y.dtype == numpy_dtype
    np.testing.assert_array_equal(y, x.reshape(3, 2, HIDDEN // 2))
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(x.astype(np.float32)).to(getattr(torch, dtype))
    assert torch.equal(session.run({"x": tensor})["y"], tensor.reshape(3, 2, HIDDEN // 2))


def test_outputs_without_elements_or_dimensions():
    def define():
        x = packed(ranges=((0, 2, 4),))
        functional.add(x, x).mark_output("twice", "float32")
        functional.sum(functional.sum(x, dim=1), dim=0).mark_output("total", "float32")

    session = tx.Session.from_serialized_engine(build(define))
    outputs = session.run({"x": np.ones((3, HIDDEN), np.float32)})
    assert outputs["total"].shape == ()
    assert outputs["total"] == 3 * HIDDEN
    outputs = session.run({"x": np.ones((0, HIDDEN), np.float32)})
    assert outputs["twice"].shape == (0, HIDDEN)
    assert outputs["total"] == 0


def test_profiles_are_chosen_by_shape(weight):
    def define():
        x = packed(ranges=((1, 1, 1), (4, 8, 16)))
        functional.relu(functional.matmul(x, functional.constant(weight))).mark_output("y", "float32")

    session = tx.Session.from_serialized_engine(build(define))
    for count in (1, 4, 16, 1, 7):
        x = tokens(count)
        check(session.run({"x": x})["y"], x, weight)
    with pytest.raises(
        InputError, match=r"has shape \(2, 8\); the engine allows \(1, 8\) or \(4, 8\) to \(16, 8\)"
    ):
        session.run({"x": tokens(2)})


# --- what it says of itself -----------------------------------------------------------------------------------


def test_infer_shapes(session):
    (x,), (y,) = session.inputs, session.outputs
    assert (x.name, x.shape, y.name, y.shape) == ("x", (-1, HIDDEN), "y", (-1, HIDDEN))
    (inferred,) = session.infer_shapes([tx.TensorInfo("x", x.dtype, (7, HIDDEN))])
    assert inferred == tx.TensorInfo("y", y.dtype, (7, HIDDEN))
    assert session.set_shapes({"x": tokens(3)})[0].shape == (3, HIDDEN)
    assert session.set_shapes({"x": (5, HIDDEN)})[0].shape == (5, HIDDEN)
    assert session.profiles("x") == [((1, HIDDEN), (4, HIDDEN), (16, HIDDEN))]
    assert session.layers()


def test_infer_shapes_refuses_what_run_would(session):
    dtype = session.inputs[0].dtype
    with pytest.raises(ValueError, match="unknown input 'z'"):
        session.infer_shapes([tx.TensorInfo("z", dtype, (7, HIDDEN))])
    with pytest.raises(ValueError, match="allowed 1 to 16"):
        session.infer_shapes([tx.TensorInfo("x", dtype, (17, HIDDEN))])
    with pytest.raises(
        ValueError, match=r"input 'x' is announced as DataType\.HALF; the engine takes DataType\.FLOAT"
    ):
        session.infer_shapes([tx.TensorInfo("x", type(dtype).HALF, (7, HIDDEN))])


# --- what it refuses ------------------------------------------------------------------------------------------

GOOD = tokens(4)

BAD_INPUTS = {
    "no dict": ([GOOD], "inputs is a list; expected a dict from input name to array"),
    "wrong name": ({"z": GOOD}, "unknown input 'z'. The engine takes: x float32 (1, 8) to (16, 8)."),
    "one too many": ({"x": GOOD, "z": GOOD}, "unknown input 'z'"),
    "missing": ({}, "input 'x' is missing. The engine takes: x float32 (1, 8) to (16, 8)."),
    "list": (
        {"x": GOOD.tolist()},
        "input 'x' is a list; expected a numpy array or a torch tensor of float32",
    ),
    "none": ({"x": None}, "input 'x' is a NoneType"),
    "float64": (
        {"x": GOOD.astype(np.float64)},
        "input 'x' has type float64; expected float32. Nothing is converted silently: pass "
        "value.astype(numpy.float32)",
    ),
    "byte order": ({"x": GOOD.astype(">f4")}, "input 'x' has type >f4; expected float32"),
    "rank": ({"x": GOOD[0]}, "input 'x' has 1 dimensions, shape (8,); expected 2: (1, 8) to (16, 8)."),
    "zero tokens": (
        {"x": GOOD[:0]},
        "input 'x' has shape (0, 8); the engine allows (1, 8) to (16, 8). dimension 0 is 0, allowed 1 to 16.",
    ),
    "too many tokens": (
        {"x": tokens(17)},
        "input 'x' has shape (17, 8); the engine allows (1, 8) to (16, 8). dimension 0 is 17, allowed 1 to 16.",
    ),
    "other width": ({"x": GOOD[:, :4].copy()}, "dimension 1 is 4, allowed 8."),
    "strided": ({"x": GOOD[::2]}, "input 'x' is not contiguous (shape (2, 8), strides (64, 4))"),
    "transposed": ({"x": tokens(8).T}, "Pass numpy.ascontiguousarray(value)."),
    "unaligned": (
        {"x": np.zeros(4 * 8 * 4 + 1, np.uint8)[1:].view(np.float32).reshape(4, 8)},
        "input 'x' is not aligned in memory",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_inputs(session, weight, case):
    inputs, message = BAD_INPUTS[case]
    session.run({"x": GOOD})
    with pytest.raises(InputError) as caught:
        session.run(inputs)
    assert message in str(caught.value)
    # The session has taken no harm.
    check(session.run({"x": GOOD})["y"], GOOD, weight)


def test_bad_torch_inputs(session):
    torch = pytest.importorskip("torch")
    good = torch.from_numpy(GOOD)
    cases = {
        "input 'x' has type torch.float64; expected float32": good.double(),
        "Pass value.contiguous().": good[::2],
        "is a torch.sparse_coo tensor; expected a dense one": good.to_sparse(),
        "is on device meta, but the embedded engine reads and writes host memory": good.to("meta"),
        "lazily negated view": torch._neg_view(good),
        "dimension 0 is 0, allowed 1 to 16": good[:0],
    }
    for message, value in cases.items():
        with pytest.raises(InputError) as caught:
            session.run({"x": value})
        assert message in str(caught.value)


def test_a_tensor_that_needs_gradients_is_only_read(session, weight):
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(tokens(2)).requires_grad_()
    check(session.run({"x": x})["y"].numpy(), x.detach().numpy(), weight)


BAD_OUTPUTS = {
    "name": ({"z": GOOD.copy()}, "unknown output 'z'; the engine gives y."),
    "shape": (
        {"y": np.empty((5, 8), np.float32)},
        "output 'y' has shape (5, 8); for these inputs it must be (4, 8).",
    ),
    "type": ({"y": np.empty((4, 8))}, "output 'y' has type float64; expected float32"),
    "strided": ({"y": np.empty((8, 8), np.float32)[::2]}, "output 'y' is not contiguous"),
    "list": ({"y": [0.0]}, "output 'y' is a list"),
}


@pytest.mark.parametrize("case", BAD_OUTPUTS)
def test_bad_outputs(session, case):
    outputs, message = BAD_OUTPUTS[case]
    with pytest.raises(InputError) as caught:
        session.run({"x": GOOD}, outputs)
    assert message in str(caught.value)


def test_an_output_that_must_not_be_written(session):
    y = np.zeros((4, 8), np.float32)
    y.flags.writeable = False
    with pytest.raises(InputError, match="output 'y' is a read-only array"):
        session.run({"x": GOOD}, {"y": y})
    assert not y.any()


def test_an_output_over_its_input(session):
    x = tokens(4)
    with pytest.raises(InputError, match="output 'y' and input 'x' share memory"):
        session.run({"x": x}, {"y": x})
    both = np.zeros((6, HIDDEN), np.float32)
    with pytest.raises(InputError, match="share memory"):
        session.run({"x": both[:4]}, {"y": both[2:]})
    y = np.empty((4, HIDDEN), np.float32)
    session.run({"x": x}, {"y": y})
    with pytest.raises(InputError, match="share memory"):
        session.run({"x": y}, {"y": y})


def test_an_array_that_grows_over_the_other_at_the_same_addresses(session, weight):
    both = np.concatenate([tokens(5), np.zeros((7, HIDDEN), np.float32)])
    x = both[:7].copy()
    session.run({"x": both[:5]}, {"y": both[5:10]})
    with pytest.raises(InputError, match="output 'y' and input 'x' share memory"):
        session.run({"x": both[:7]}, {"y": both[5:12]})
    y = np.empty((7, HIDDEN), np.float32)
    check(session.run({"x": x}, {"y": y})["y"], x, weight)


def test_arrays_given_before_are_checked_again(session):
    x, y = tokens(4), np.empty((4, HIDDEN), np.float32)
    session.run({"x": x}, {"y": y})
    x.shape = (2, 2 * HIDDEN)
    with pytest.raises(InputError, match="dimension 1 is 16, allowed 8"):
        session.run({"x": x}, {"y": y})
    x.shape = (4, HIDDEN)
    session.run({"x": x}, {"y": y})
    y.flags.writeable = False
    with pytest.raises(InputError, match="read-only"):
        session.run({"x": x}, {"y": y})


def test_inputs_that_do_not_fit_each_other():
    """A bare engine does not know names of dimensions; its own rules say it."""

    def define():
        a, b = packed("a"), packed("b")
        functional.concat([a, b], dim=1).mark_output("y", "float32")

    session = tx.Session.from_serialized_engine(build(define))
    session.run({"a": tokens(3), "b": tokens(3)})
    with pytest.raises(InputError, match=r"the inputs do not fit each other: a \(3, 8\), b \(2, 8\)"):
        session.run({"a": tokens(3), "b": tokens(2)})
    assert session.run({"a": tokens(2), "b": tokens(2)})["y"].shape == (2, 2 * HIDDEN)


@pytest.mark.parametrize("index", [5, -6])
def test_an_index_beyond_its_table_is_told_as_a_sentence(index):
    def define():
        ids = tx.Tensor(name="ids", dtype="int32", shape=[-1], dim_range=OrderedDict(num_tokens=[[1, 2, 4]]))
        table = functional.constant(np.ones((5, HIDDEN), np.float32))
        functional.embedding(ids, table).mark_output("y", "float32")

    session = tx.Session.from_serialized_engine(build(define))
    with pytest.raises(EngineError) as caught:
        session.run({"ids": np.array([0, index], np.int32)})
    told = re.sub("layer '.*GATHER_0'", "layer '...GATHER_0'", str(caught.value))
    assert told == (
        f"the engine failed while running: layer '...GATHER_0' was given the index {index}, but what it looks up has "
        f"5 entries, 0 to 4. Where these are token ids, they must come from the model's own tokenizer."
    )
    assert session.run({"ids": np.array([0, 4], np.int32)})["y"].shape == (2, HIDDEN)


def test_other_failures_name_layer_and_operator():
    logged = (
        "execute_async_v3: the run failed: Non-zero status code returned while running Mul node. "
        "Name:'M/mul_L3/PROD_0/Mul' Status Message: 3 by 5"
    )
    assert explain_failure(logged) == "layer 'M/mul_L3/PROD_0' (Mul) failed: 3 by 5"
    assert explain_failure("CUDA error 700") == "CUDA error 700"


def test_what_is_no_engine(engine):
    data = bytes(engine)
    for buffer in (b"", b"junk" * 100, data[: len(data) // 2], data[:-1]):
        with pytest.raises(EngineError, match="the buffer is not an engine that can be loaded here: "):
            tx.Session.from_serialized_engine(buffer)
    with pytest.raises(InputError, match="is a path; give its content"):
        tx.Session.from_serialized_engine("engine")
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    with pytest.raises(EngineError):
        tx.Session.from_serialized_engine(bytes(flipped))


def test_an_unknown_load_mode(engine):
    with pytest.raises(InputError, match="load_mode='fast' is not known; it is one of prepack, mapped"):
        tx.Session.from_serialized_engine(engine, load_mode="fast")


def test_closed(engine):
    session = tx.Session.from_serialized_engine(engine)
    (x,) = session.inputs
    session.close()
    session.close()
    for use in (
        lambda: session.run({"x": GOOD}),
        lambda: session.profiles("x"),
        lambda: session.profiles("unknown"),
        lambda: session.layers(),
        lambda: session.infer_shapes([x]),
        lambda: session.infer_shapes([]),
        lambda: session.set_shapes({"x": GOOD}),
        lambda: session.set_shapes({}),
    ):
        with pytest.raises(EngineError, match=r"this session is closed\."):
            use()


def test_values_are_not_judged(session):
    """NaN and infinity are numbers like others at run time."""
    x = np.full((1, HIDDEN), np.nan, np.float32)
    assert np.isnan(session.run({"x": x})["y"]).all()


def test_unchecked_runs(session, weight):
    x = tokens(4)
    check(session.run({"x": x}, check=False)["y"], x, weight)
    with pytest.raises(InputError, match="allowed 1 to 16"):
        session.run({"x": tokens(17)}, check=False)


def test_two_ranges_of_one_name():
    from trtllm_ext.errors import BuildError

    def define():
        a = packed("a")
        b = tx.Tensor(
            name="b",
            dtype="float32",
            shape=[-1, 8],
            dim_range=OrderedDict(num_tokens=[[1, 2, 3]], hidden=[8]),
        )
        functional.concat([a, b], dim=0).mark_output("y", "float32")

    with pytest.raises(BuildError, match=r"dimension 'num_tokens' is .* in input 'a' but .* in input 'b'"):
        build(define)
