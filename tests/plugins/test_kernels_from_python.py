"""The kernels from Python without a framework: which library is loaded, arrays of all kinds, plans, errors."""

import subprocess
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from trtllm_ext.errors import BackendError, ConfigError, InputError, KernelError, TrtllmExtError
from trtllm_ext.plugin import kernels as kernels_module
from trtllm_ext.plugin.c_interface import FUNCTIONS, Status
from trtllm_ext.plugin.feed_forward_plan import FeedForwardForm, FeedForwardPlan
from trtllm_ext.plugin.kernels import find_library, load_kernels, status_name

BUDGET_S = 3

FORM = FeedForwardForm(
    hidden_size=16, ffn_hidden_size=24, max_num_tokens=8, dtype="float32", activation="relu"
)


@pytest.fixture(scope="module")
def kernels(kernels_on_cpu):
    return load_kernels(kernels_on_cpu)


def random(*shape, dtype=np.float32):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(dtype)


def feed_forward_arrays():
    return {"x": random(5, 16), "fc_weight": random(24, 16), "proj_weight": random(16, 24)}


def workspace_of(plan):
    whole = np.zeros(plan.workspace_size() + 256, np.uint8)
    return whole[-whole.ctypes.data % 256 :]


def test_numpy_arrays(kernels):
    x, stream, gamma = random(3, 12), random(3, 12), random(12)
    normed = np.full_like(x, np.nan)
    wanted = x.astype(np.float64) + stream
    kernels.residual_norm(
        x, residual=stream, weight=gamma, norm="rms_norm", eps=1e-6, sum=stream, normed=normed
    )
    np.testing.assert_allclose(stream, wanted, rtol=1e-6)
    wanted = wanted / np.sqrt((wanted**2).mean(-1, keepdims=True) + 1e-6) * gamma
    np.testing.assert_allclose(normed, wanted, rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_halves_of_a_numpy_array(kernels, dtype):
    whole = random(4, 14, dtype=dtype)
    fc, gate = whole[:, :7], whole[:, 7:]
    output = np.zeros((4, 7), dtype)
    kernels.gated_activation(fc, output, gate=gate, activation="relu")
    wanted = np.maximum(fc.astype(np.float64), 0) * gate.astype(np.float64)
    np.testing.assert_allclose(output.astype(np.float64), wanted, rtol=2e-3 if dtype == np.float16 else 8e-3)


def test_arrays_that_only_have_the_cuda_interface(kernels):
    x, output = random(2, 6), np.zeros((2, 6), np.float32)
    kernels.gated_activation(x, output, activation="squared_relu")
    described = SimpleNamespace(
        __cuda_array_interface__={
            "data": (x.ctypes.data, False),
            "shape": (2, 6),
            "typestr": "<f4",
            "strides": None,
        }
    )
    other = SimpleNamespace(
        __cuda_array_interface__={
            "data": ((second := np.zeros((2, 6), np.float32)).ctypes.data, False),
            "shape": (2, 6),
            "typestr": "<f4",
            "strides": (24, 4),
        }
    )
    kernels.gated_activation(described, other, activation="squared_relu")
    np.testing.assert_array_equal(second, output)


def test_a_plan(kernels):
    arrays, y = feed_forward_arrays(), np.full((5, 16), np.nan, np.float32)
    with FeedForwardPlan(kernels, FORM) as plan:
        plan.run(y=y, **arrays, workspace=workspace_of(plan))
        assert 5 <= plan.bucket(5) <= 8
        assert plan.workspace_size(1) <= plan.workspace_size()
        assert isinstance(plan.describe(5), dict)
        with pytest.raises(KernelError, match="cublasLt") as refused:
            plan.tune(y=y, **arrays, workspace=workspace_of(plan))
        assert refused.value.status == "LIBRARY_MISSING"
        with pytest.raises(KernelError) as refused:
            plan.run(y=random(9, 16), **{**arrays, "x": random(9, 16)}, workspace=workspace_of(plan))
        assert refused.value.status == "TOO_MANY_TOKENS"
        with pytest.raises(KernelError) as refused:
            plan.take_choices(b"of nobody")
        assert refused.value.status == "INVALID_ARGUMENT"
    x, fc, proj = (each.astype(np.float64) for each in arrays.values())
    np.testing.assert_allclose(y, np.maximum(x @ fc.T, 0) @ proj.T, rtol=1e-4, atol=1e-5)
    plan.close()
    with pytest.raises(TrtllmExtError, match="closed"):
        plan.bucket(5)


def test_choices_go_from_plan_to_plan(kernels):
    with FeedForwardPlan(kernels, FORM) as plan, FeedForwardPlan(kernels, FORM) as other:
        # Nothing was tuned: there is nothing to take, and that is no damage.
        assert other.take_choices(plan.choices()) == 0


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (
            lambda it: it.residual_norm(random(2, 8), norm="rms_norm", normed=random(2, 7)),
            InputError,
            r"normed is .*\(2, 7\)",
        ),
        (
            lambda it: it.residual_norm(random(2, 8), norm="rms_norm", weight=random(8, dtype=np.float16)),
            InputError,
            "weight is float16",
        ),
        (lambda it: it.residual_norm(random(2, 8).T, norm="rms_norm"), InputError, "next to each other"),
        (
            lambda it: it.residual_norm(random(2, 8).astype(np.float64), norm="rms_norm"),
            InputError,
            "no type float64",
        ),
        (lambda it: it.residual_norm([1.0], norm="rms_norm"), InputError, "x is a list"),
        (lambda it: it.residual_norm(random(2, 2, 2), norm="rms_norm"), InputError, "3 dimensions"),
        (lambda it: it.residual_norm(random(2, 8), norm="rms"), ConfigError, "rms_norm"),
        (lambda it: it.residual_norm(random(2, 8), norm="rms_norm", scales=random(3)), InputError, "scales"),
        (
            lambda it: it.gated_activation(random(2, 8), random(2, 8), activation="gelu"),
            ConfigError,
            "gelu_erf",
        ),
        (
            lambda it: FeedForwardPlan(it, FeedForwardForm(**{**vars(FORM), "dtype": "int8"})),
            KernelError,
            ".",
        ),
    ],
)
def test_refused(kernels, call, error, text):
    with pytest.raises(error, match=text):
        call(kernels)


def test_weights_with_gaps_are_refused(kernels):
    arrays = feed_forward_arrays() | {"fc_weight": random(24, 17)[:, :16]}
    with FeedForwardPlan(kernels, FORM) as plan, pytest.raises(InputError, match="without gaps"):
        plan.run(y=random(5, 16), **arrays, workspace=workspace_of(plan))


def test_what_the_library_is_made_of(kernels, kernels_on_cpu):
    assert kernels.info["kernels_abi"] == 1
    assert load_kernels(kernels_on_cpu) is kernels
    kernels.check_device()


def test_names_of_statuses_are_the_librarys(kernels):
    for status in Status:
        assert kernels.library.trtllm_ext_status_name(status).decode() == status.name
    assert status_name(99) == "status 99"


def test_where_the_library_is_looked_for(monkeypatch, tmp_path):
    monkeypatch.setattr(kernels_module, "_PACKAGE_DATA", tmp_path)
    for variable in ("TRTLLM_EXT_KERNELS", "TRTLLM_EXT_PLUGINS"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(BackendError, match="make plugins"):
        find_library()
    monkeypatch.setenv("TRTLLM_EXT_PLUGINS", "/somewhere/plugins.so")
    assert str(find_library()) == "/somewhere/plugins.so"
    monkeypatch.setenv("TRTLLM_EXT_KERNELS", "/somewhere/kernels.so")
    assert str(find_library()) == "/somewhere/kernels.so"
    (tmp_path / "libtrtllm_ext_plugins.so").touch()
    assert find_library() == tmp_path / "libtrtllm_ext_plugins.so"


def test_libraries_that_are_none(tmp_path):
    with pytest.raises(BackendError, match="cannot be loaded"):
        load_kernels(tmp_path / "nowhere.so")
    (tmp_path / "text.so").write_text("no library")
    with pytest.raises(BackendError, match="cannot be loaded"):
        load_kernels(tmp_path / "text.so")


def test_libraries_of_other_versions(tmp_path):
    functions = "".join(f"int trtllm_ext_{name}(void) {{ return 7; }}\n" for name in FUNCTIONS)
    for name, text, told in (("other", functions, "version 7"), ("old", "int nothing;", "make plugins")):
        library = tmp_path / f"{name}.so"
        subprocess.run(
            ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", library], input=text, text=True, check=True
        )
        with pytest.raises(BackendError, match=told):
            load_kernels(library)
