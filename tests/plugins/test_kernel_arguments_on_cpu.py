"""What the row kernels refuse, and what they take: each refusal is its own status and sentence, and writes nothing."""

import ctypes
import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from trtllm_ext.plugin.c_interface import GatedActivationArgs, ResidualNormArgs, Status
from trtllm_ext.plugin.kernels import load_kernels

BUDGET_S = 2

TOKENS, WIDTH = 4, 16
# Where each array lies in one buffer, in elements of float32: rows of 16, 4 of them.
PLACES = {
    name: 128 * number
    for number, name in enumerate(("x", "residual", "sum", "normed", "scales", "weight", "bias"))
}
BYTE = 4


@pytest.fixture(scope="module")
def library(kernels_on_cpu):
    return load_kernels(kernels_on_cpu).library


@pytest.fixture
def memory():
    """Aligned memory full of 7s."""
    whole = np.full(4096 + 64, 7, np.float32)
    first = -whole.ctypes.data % 256 // BYTE
    return whole[first : first + 4096]


def norm_args(memory, **changes):
    """A call that is right, with changes; arrays by name, or {name: elements} for a place in the buffer."""
    given = {"x": "x", "residual": "residual", "sum": "sum", "normed": "normed", "weight": "weight"}
    args = ResidualNormArgs(size=ctypes.sizeof(ResidualNormArgs), type=1, norm=2, eps=1e-5)
    args.num_tokens, args.hidden_size = TOKENS, WIDTH
    for name in ("x", "residual", "sum", "normed", "quantized"):
        setattr(args, f"{name}_stride", WIDTH)
    return _placed(args, given, memory, changes)


def gated_args(memory, **changes):
    given = {"fc": "x", "gate": "residual", "output": "sum"}
    args = GatedActivationArgs(size=ctypes.sizeof(GatedActivationArgs), type=1, activation=5)
    args.num_tokens, args.width = TOKENS, WIDTH
    for name in ("fc", "gate", "output"):
        setattr(args, f"{name}_stride", WIDTH)
    return _placed(args, given, memory, changes)


def _placed(args, given, memory, changes):
    pointers = {name for name, kind in args._fields_ if kind is ctypes.c_void_p}
    for name, value in (given | changes).items():
        if name in pointers and value is not None:
            value = memory.ctypes.data + BYTE * (PLACES[value] if isinstance(value, str) else value)
        setattr(args, name, int(value) if name in pointers and value is not None else value)
    return args


def sentence(library):
    return library.trtllm_ext_last_error().decode()


INT8 = {"quantized_type": 4, "quantized": "bias", "scales": "scales"}
NORM_REFUSALS = [
    ({"reserved": 1}, "reserved is 1"),
    ({"norm": 3}, "norm is 3; trtllm_ext_norm goes from 0 to 2"),
    ({"rounding": -1}, "rounding is -1; trtllm_ext_rounding goes from 0 to 1"),
    ({"eps": 0.0}, "eps is 0; it must be above 0"),
    ({"eps": float("inf")}, "eps is inf; it must be finite"),
    ({"weight_offset": float("nan")}, "weight_offset is nan; it must be finite"),
    ({"weight_offset": 1.0, "weight": None}, "weight_offset without a weight"),
    ({"weight_offset": 1.0, "rounding": 1}, "AFTER_WEIGHT only"),
    ({"norm": 0}, "norm is NO_NORM, the sum alone"),
    ({"norm": 0, "normed": None}, "norm is NO_NORM, the sum alone"),
    ({"num_tokens": 2**31}, "num_tokens is 2147483648; it must be from 0 to 2147483647"),
    ({"hidden_size": 2**31 + 1}, "hidden_size is 2147483649; it must be from 1 to 2147483648"),
    ({"normed_stride": 15}, "normed_stride is 15 elements; it must be from a row's 16 to"),
    ({"residual_stride": 2**62}, "residual_stride is 4611686018427387904 elements"),
    ({"weight": PLACES["weight"] + 0.5}, "weight is at 0x"),
    ({"sum": None, "normed": None}, "sum, normed and quantized are all NULL"),
    ({"quantized_type": 5}, "quantized_type needs quantized and scales"),
    (INT8 | {"scales": None}, "quantized_type needs quantized and scales"),
    (INT8 | {"quantized_type": 0}, "quantized or scales without a quantized_type"),
    ({"normed": "sum"}, "sum shares memory with normed"),
    ({"sum": 4}, "sum shares memory with x"),
    ({"sum": "x", "sum_stride": 32}, "sum shares memory with x"),
    # Columns of one buffer that overlap, the output's beginning to the left or to the right of the input's.
    ({"x": 8, "x_stride": 40, "sum": "x", "sum_stride": 40, "normed": None}, "sum shares memory with x"),
    ({"sum": 8, "x_stride": 40, "sum_stride": 40, "normed": None}, "sum shares memory with x"),
    ({"normed": PLACES["residual"] + 63}, "normed shares memory with residual"),
    ({"normed": "weight"}, "normed shares memory with weight"),
    (INT8 | {"quantized": "x"}, "quantized shares memory with x"),
    (INT8 | {"quantized": "sum"}, "quantized shares memory with sum"),
    (INT8 | {"scales": 2}, "x shares memory with scales"),
    (INT8 | {"scales": PLACES["normed"] + 63}, "normed shares memory with scales"),
    (INT8 | {"scales": PLACES["weight"] - 3}, "scales shares memory with weight"),
]
GATED_REFUSALS = [
    ({"reserved": 2}, "reserved is 2"),
    ({"clamp": -1.0}, "clamp is -1; it must be above 0, or 0 for none"),
    ({"clamp": float("inf")}, "clamp is inf"),
    ({"gate_offset": float("nan")}, "gate_offset is nan; it must be finite"),
    ({"gate": None, "gate_offset": 1.0}, "gate_offset without a gate"),
    ({"gate": None, "gate_bias": "bias"}, "gate_bias without a gate"),
    ({"gate_stride": 3}, "gate_stride is 3 elements"),
    ({"fc_bias": PLACES["bias"] + 0.25}, "fc_bias is at 0x"),
    ({"fc_bias": "sum"}, "output shares memory with fc_bias"),
    ({"output": 16}, "output shares memory with fc"),
    ({"output": "residual", "output_stride": 17}, "output shares memory with gate"),
]


@pytest.mark.parametrize("changes, words", NORM_REFUSALS, ids=lambda each: str(each)[:60])
def test_residual_norm_refuses(library, memory, changes, words):
    status = library.trtllm_ext_residual_norm(ctypes.byref(norm_args(memory, **changes)), None)
    assert (Status(status), words in sentence(library)) == (Status.INVALID_ARGUMENT, True), sentence(library)
    assert sentence(library).startswith("residual_norm: ") and (memory == 7).all()


@pytest.mark.parametrize("changes, words", GATED_REFUSALS, ids=lambda each: str(each)[:60])
def test_gated_activation_refuses(library, memory, changes, words):
    status = library.trtllm_ext_gated_activation(ctypes.byref(gated_args(memory, **changes)), None)
    assert (Status(status), words in sentence(library)) == (Status.INVALID_ARGUMENT, True), sentence(library)
    assert sentence(library).startswith("gated_activation: ") and (memory == 7).all()


TAKEN = [
    {},
    {"sum": "x", "normed": "residual"},
    # One row: its strides mean nothing.
    {"num_tokens": 1, "x_stride": 0, "sum": "x", "sum_stride": -5},
    # Columns of one buffer, side by side: of x and the sum, and of rows a multiple of the others' distance apart.
    {"x_stride": 40, "sum": PLACES["x"] + 16, "sum_stride": 40, "residual": None, "normed": None},
    {"x": 512, "x_stride": 40, "sum": 512 + 16, "sum_stride": 80, "residual": None, "normed": None},
    {"normed": None, "weight": None},
    INT8 | {"sum": None, "normed": None},
]


@pytest.mark.parametrize("changes", TAKEN, ids=lambda each: str(each)[:60])
def test_what_shares_nothing_is_taken(library, memory, changes):
    status = library.trtllm_ext_residual_norm(ctypes.byref(norm_args(memory, **changes)), None)
    assert Status(status) == Status.SUCCESS, sentence(library)


def test_structures_of_other_sizes(library, memory):
    """Shorter than its first version: refused. Longer: taken while the unknown bytes are 0."""
    short = norm_args(memory, size=ctypes.sizeof(ResidualNormArgs) - 8)
    assert library.trtllm_ext_residual_norm(ctypes.byref(short), None) == Status.INVALID_ARGUMENT
    assert f"they are at least {ctypes.sizeof(ResidualNormArgs)}" in sentence(library)
    assert library.trtllm_ext_residual_norm(None, None) == Status.INVALID_ARGUMENT
    assert "the arguments are NULL" in sentence(library)
    size = ctypes.sizeof(ResidualNormArgs)
    longer = ctypes.create_string_buffer(bytes(norm_args(memory, size=size + 16)) + bytes(16), size + 16)
    call = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p)(
        ctypes.cast(library.trtllm_ext_residual_norm, ctypes.c_void_p).value
    )
    assert call(ctypes.addressof(longer), None) == Status.SUCCESS
    longer[size + 3] = b"\1"
    assert call(ctypes.addressof(longer), None) == Status.INVALID_ARGUMENT
    assert f"byte {size + 3} of the arguments is set" in sentence(library)


def test_each_thread_has_its_own_sentence(library, memory):
    library.trtllm_ext_residual_norm(ctypes.byref(norm_args(memory, reserved=1)), None)
    others = []
    thread = threading.Thread(target=lambda: others.append(sentence(library)))
    thread.start()
    thread.join()
    assert others == [""] and "reserved is 1" in sentence(library)


def test_what_was_built(library):
    info = json.loads(library.trtllm_ext_kernels_info())
    assert info["kernels_abi"] == library.trtllm_ext_kernels_abi() == 1
    assert info["architectures"] == "90a" and float(info["cuda"]) >= 11


def test_statuses_have_names(library):
    assert [library.trtllm_ext_status_name(each).decode() for each in Status] == [
        each.name for each in Status
    ]
    assert library.trtllm_ext_status_name(99) == b"UNKNOWN_STATUS"


def test_dependent_launch_changes_no_number(library, memory):
    args = norm_args(memory)
    results = []
    for enabled in (1, 0):
        library.trtllm_ext_set_dependent_launch(enabled)
        memory[PLACES["sum"] : PLACES["scales"]] = np.nan
        assert library.trtllm_ext_residual_norm(ctypes.byref(args), None) == Status.SUCCESS
        results.append(memory.copy())
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize(
    "device, words",
    [
        ("none", "No CUDA device can be used"),
        ("80", "compute capability 8.0, and this library has code for 90a"),
    ],
)
def test_devices_that_are_not_served(kernels_on_cpu, device, words):
    """In a process of its own: what a device is, is asked for once."""
    code = (
        "import ctypes, sys; library = ctypes.CDLL(sys.argv[1]);"
        "library.trtllm_ext_last_error.restype = ctypes.c_char_p;"
        "print(library.trtllm_ext_device_status(), library.trtllm_ext_last_error().decode())"
    )
    environment = os.environ | {"CUDA_ON_CPU_DEVICE": device}
    command = [sys.executable, "-S", "-c", code, str(kernels_on_cpu)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.startswith(f"{int(Status.UNSUPPORTED_DEVICE)} ") and words in ran.stdout
