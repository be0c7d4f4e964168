"""feed_forward without cublasLt, by the plain product: numbers to the last rounding, layouts, workspace, refusals."""

import ctypes
import ctypes.util
import os

import numpy as np
import pytest
from feed_forward_arrays import TOLERANCE, arrays_of, check, error_of, form, reference, run, workspace_for

from trtllm_ext.errors import KernelError
from trtllm_ext.plugin.c_interface import FeedForwardArgs, FeedForwardFormStruct
from trtllm_ext.plugin.feed_forward_plan import FeedForwardPlan
from trtllm_ext.plugin.kernels import load_kernels

BUDGET_S = 2

BIASES = {"has_fc_bias": True, "has_proj_bias": True}
PLAIN = {"activation": "relu", **BIASES, "has_residual": True}
GATED = {"activation": "silu", "gated": True, **BIASES, "has_gate_bias": True, "has_residual": True}
LIMITED = {**GATED, "activation": "quick_gelu", "clamp": 0.75, "gate_offset": 1.0}
FORMS = {
    "plain": PLAIN,
    "gated": GATED,
    "limited": LIMITED,
    "bare": {"activation": "gelu_erf"},
    "limited without a gate": {"activation": "tanh", "clamp": 0.5, "has_fc_bias": True},
}


@pytest.fixture(scope="module")
def kernels(kernels_on_cpu):
    return load_kernels(kernels_on_cpu)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("parts", FORMS.values(), ids=FORMS)
def test_token_counts(kernels, parts, dtype):
    for num_tokens in (0, 1, 2, 3, 7, 17):
        check(kernels, form(dtype=dtype, **parts), num_tokens, by_cublaslt=False)


# A tile is 64 tokens by 64 features, 16 inputs deep: one less, one more, and several.
@pytest.mark.parametrize(
    ("hidden", "ffn", "num_tokens"), [(1, 1, 1), (16, 64, 64), (15, 63, 63), (17, 65, 65), (67, 131, 130)]
)
def test_sizes_around_tiles(kernels, hidden, ffn, num_tokens):
    for parts in (PLAIN, GATED):
        check(kernels, form(hidden, ffn, 200, "float16", **parts), num_tokens, by_cublaslt=False)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("layout", [{"gap": 8}, {"gap": 1}, {"shift": 1}, {"gap": 3, "shift": 5}], ids=str)
def test_layouts(kernels, dtype, layout):
    for parts in (PLAIN, GATED):
        check(kernels, form(dtype=dtype, **parts), 5, by_cublaslt=False, **layout)


def test_y_in_the_residuals_memory(kernels):
    its = form(dtype="bfloat16", **GATED)
    arrays = arrays_of(its, 7, gap=2)
    wanted = reference(its, arrays, by_cublaslt=False)
    with FeedForwardPlan(kernels, its) as plan:
        got = run(plan, arrays | {"y": arrays["residual"]})
    assert error_of(got, wanted) <= TOLERANCE["bfloat16"]


def test_buckets_are_powers_of_two_up_to_the_limit(kernels):
    with FeedForwardPlan(kernels, form(tokens=100)) as plan:
        counts = (-1, 0, 1, 2, 3, 4, 5, 64, 65, 100, 101)
        assert [plan.bucket(count) for count in counts] == [-1, 0, 1, 2, 4, 4, 8, 64, 100, 100, -1]


def test_workspace_holds_u_and_never_shrinks(kernels):
    for parts in (PLAIN, GATED):
        with FeedForwardPlan(kernels, form(24, 41, 100, "float16", **parts)) as plan:
            sizes = [plan.workspace_size(count) for count in range(102)]
        assert sizes[0] == 0
        assert sizes == sorted(sizes)
        assert sizes[101] == sizes[100] >= 100 * 41 * 2
        assert all(size % 256 == 0 for size in sizes)


def test_the_description_says_why_there_is_no_cublaslt(kernels, monkeypatch):
    with FeedForwardPlan(kernels, form(tokens=100)) as plan:
        described = plan.describe(37)
        assert (described["road"], described["bucket"], described["num_tokens"]) == ("plain", 64, 37)
        assert os.devnull in described["no_cublaslt"]
        # Of this road alone: 37 rows of 40 float32, rounded up.
        assert described["workspace"] == 6144 < plan.workspace_size(37)
        assert "road" not in plan.describe(0)
        with pytest.raises(KernelError, match="101 tokens; the plan is for 0 to 100"):
            plan.describe(101)
        short = ctypes.create_string_buffer(16)
        status = kernels.library.trtllm_ext_feed_forward_describe(plan._open(), 1, short, len(short))
        with pytest.raises(KernelError, match="bytes, and there are 16"):
            kernels.check(status)
    # Another library altogether is none, too.
    monkeypatch.setenv("TRTLLM_EXT_CUBLASLT", str(ctypes.util.find_library("m")))
    with FeedForwardPlan(kernels, form()) as plan:
        assert "has no cublasLtGetVersion" in plan.describe(1)["no_cublaslt"]


def refusal(kernels, status, text, call):
    with pytest.raises(KernelError, match=text) as refused:
        call()
    assert refused.value.status == status


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"has_gate_bias": True}, "has_gate_bias without a gate"),
        ({"gate_offset": 1.0}, "gate_offset without a gate"),
        ({"clamp": -1.0}, "clamp is -1"),
        ({"clamp": float("nan")}, "clamp is .*nan"),
        ({"gated": True, "gate_offset": float("inf")}, "gate_offset is inf"),
        ({"tokens": 0}, "max_num_tokens is 0"),
        ({"hidden": 2**40}, "hidden_size is 1099511627776"),
    ],
)
def test_forms_that_are_refused(kernels, changes, text):
    refusal(kernels, "INVALID_ARGUMENT", text, lambda: FeedForwardPlan(kernels, form(**changes)))


def test_operands_are_those_of_the_form(kernels):
    with FeedForwardPlan(kernels, form(**GATED)) as plan:
        arrays = arrays_of(plan.form, 3)
        for name in ("gate_weight", "fc_bias", "gate_bias", "proj_bias", "residual"):
            fewer = {other: value for other, value in arrays.items() if other != name}
            refusal(kernels, "INVALID_ARGUMENT", f"{name} is NULL", lambda fewer=fewer: run(plan, fewer))
        assert np.isnan(arrays["y"]).all()
    with FeedForwardPlan(kernels, form()) as plan:
        text = "residual is given, and the plan's form has has_residual 0"
        refusal(kernels, "INVALID_ARGUMENT", text, lambda: run(plan, arrays_of(form(has_residual=True), 3)))


def test_memory_that_is_refused(kernels):
    with FeedForwardPlan(kernels, form(has_residual=True)) as plan:
        arrays = arrays_of(plan.form, 3)
        whole = np.full((4, 24), np.nan, np.float32)
        for other, text in (("x", "y shares memory with x"), ("residual", "y shares memory with residual")):
            mixed = arrays | {other: whole[:3], "y": whole[1:]}
            refusal(kernels, "INVALID_ARGUMENT", text, lambda mixed=mixed: run(plan, mixed))
        space = workspace_for(plan, 3)
        for given, status, text in (
            (space[1:], "INVALID_ARGUMENT", "multiple of 256 bytes"),
            (space[:256], "WORKSPACE_TOO_SMALL", "the workspace has 256 bytes; a run of 3 tokens needs"),
            (None, "INVALID_ARGUMENT", "workspace is NULL"),
        ):
            refusal(kernels, status, text, lambda given=given: plan.run(**arrays, workspace=given))
        refusal(kernels, "LIBRARY_MISSING", "without cublasLt", lambda: plan.tune(**arrays, workspace=space))
        assert np.isnan(arrays["y"]).all()


def test_workspace_is_enough_for_cublaslt_too(kernels):
    """An engine keeps the number, and may be run where cublasLt is, though it was built where it is not."""
    fc_and_gate = 2 * 512  # three rows of 40 float32 each, from one multiple of 256 bytes to the next
    parts = 64 * 16 * 40 * 4  # float32 sums of a product split 64 times, of a tile of 16 tokens
    with FeedForwardPlan(kernels, form(**GATED)) as plan:
        assert plan.workspace_size(3) == fc_and_gate + parts


def test_no_tokens_need_no_memory(kernels):
    with FeedForwardPlan(kernels, form(**GATED)) as plan:
        args = FeedForwardArgs(size=ctypes.sizeof(FeedForwardArgs))
        for call in ("feed_forward", "feed_forward_tune"):
            function = getattr(kernels.library, f"trtllm_ext_{call}")
            kernels.check(function(plan._open(), ctypes.byref(args), None))


def test_machines_without_a_gpu(kernels, monkeypatch):
    with FeedForwardPlan(kernels, form()) as plan:
        monkeypatch.setenv("CUDA_ON_CPU_DEVICE", "none")
        refusal(kernels, "UNSUPPORTED_DEVICE", "No CUDA device", lambda: FeedForwardPlan(kernels, form()))
        refusal(kernels, "UNSUPPORTED_DEVICE", "No CUDA device", lambda: run(plan, arrays_of(plan.form, 3)))


def test_nulls_are_refused(kernels):
    library, plan = kernels.library, ctypes.c_void_p()
    for status in (
        library.trtllm_ext_feed_forward_create(None, ctypes.byref(plan)),
        library.trtllm_ext_feed_forward_create(ctypes.byref(FeedForwardFormStruct()), None),
        library.trtllm_ext_feed_forward(None, None, None),
        library.trtllm_ext_feed_forward_choices(None, None, None),
        library.trtllm_ext_feed_forward_take_choices(None, None, 0, None),
        library.trtllm_ext_feed_forward_describe(None, 1, None, 0),
    ):
        with pytest.raises(KernelError) as refused:
            kernels.check(status)
        assert refused.value.status == "INVALID_ARGUMENT"
    library.trtllm_ext_feed_forward_destroy(None)
    assert library.trtllm_ext_feed_forward_workspace(None, 1) == 0
    assert library.trtllm_ext_feed_forward_bucket(None, 1) == -1
