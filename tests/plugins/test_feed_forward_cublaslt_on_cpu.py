"""feed_forward by cublasLt, played by a library that computes on the CPU: what it is asked for, and what is chosen.

That the real one does what this one does is not shown here: tests/on_gpu does that.
"""

import shutil
import subprocess
import threading
from dataclasses import replace

import pytest
from cpu_library import KERNELS, compiler
from fake_cublaslt import FakeCublasLt
from feed_forward_arrays import TOLERANCE, arrays_of, check, check_run, error_of, form, reference, run, tune

from trtllm_ext.errors import KernelError
from trtllm_ext.plugin.feed_forward_plan import FeedForwardPlan
from trtllm_ext.plugin.kernels import load_kernels

BUDGET_S = 6

BIASES = {"has_fc_bias": True, "has_proj_bias": True}
PLAIN = {"activation": "relu", **BIASES, "has_residual": True}
GATED = {"activation": "silu", "gated": True, **BIASES, "has_gate_bias": True, "has_residual": True}
# cublasLt's numbers of the epilogues.
NOTHING, RELU, BIAS, RELU_BIAS, GELU, GELU_BIAS = 1, 2, 4, 6, 32, 36
# Algorithms of the fake from this one on take operands of any alignment.
FOR_ANY = 32


@pytest.fixture(scope="module")
def kernels(kernels_on_cpu):
    return load_kernels(kernels_on_cpu)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("parts", [PLAIN, GATED, {}], ids=["plain", "gated", "bare"])
def test_token_counts(fake_cublaslt, kernels, parts, dtype):
    for num_tokens in (0, 1, 2, 3, 7, 17):
        check(kernels, form(dtype=dtype, **parts), num_tokens, by_cublaslt=True)


@pytest.mark.parametrize("layout", [{"gap": 8}, {"gap": 1}, {"shift": 1}, {"gap": 3, "shift": 5}], ids=str)
def test_layouts(fake_cublaslt, kernels, layout):
    for parts in (PLAIN, GATED):
        check(kernels, form(dtype="bfloat16", **parts), 5, by_cublaslt=True, **layout)
        check(kernels, form(7, 5, dtype="float16", **parts), 3, by_cublaslt=True, **layout)


EPILOGUES = {"identity": (NOTHING, BIAS), "relu": (RELU, RELU_BIAS), "gelu_tanh": (GELU, GELU_BIAS)}
APART = ("gelu_erf", "quick_gelu", "silu", "squared_relu", "sigmoid", "tanh")


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("activation", [*EPILOGUES, *APART])
def test_epilogues(fake_cublaslt, kernels, activation, biased):
    inner = EPILOGUES.get(activation, (NOTHING, NOTHING))[biased]
    its = form(dtype="float16", activation=activation, has_fc_bias=biased, has_proj_bias=biased)
    check(kernels, its, 5, by_cublaslt=True)
    assert fake_cublaslt.recent("epilogues", 2) == [inner, BIAS if biased else NOTHING]
    # A gate and a clamp leave no epilogue but the outer bias: the inner biases come after the products.
    check(kernels, replace(its, gated=True, gate_offset=0.5), 5, by_cublaslt=True)
    check(kernels, replace(its, clamp=0.5), 5, by_cublaslt=True)
    outer = BIAS if biased else NOTHING
    assert fake_cublaslt.recent("epilogues", 5) == [NOTHING, NOTHING, outer, NOTHING, outer]


def test_the_residual_is_what_the_product_is_added_to(fake_cublaslt, kernels):
    for has_residual in (False, True):
        check(kernels, form(has_residual=has_residual), 3, by_cublaslt=True)
        assert (fake_cublaslt.get("beta"), fake_cublaslt.get("in_place")) == (has_residual, 0)
    its = form(dtype="bfloat16", **GATED)
    arrays = arrays_of(its, 7, gap=8)
    wanted = reference(its, arrays, by_cublaslt=True)
    with FeedForwardPlan(kernels, its) as plan:
        got = run(plan, arrays | {"y": arrays["residual"]})
    assert error_of(got, wanted) <= TOLERANCE["bfloat16"]
    assert fake_cublaslt.get("in_place") == 1


def test_tf32_only_where_it_is_asked_for(fake_cublaslt, kernels):
    for dtype, tf32, compute_type in (("float32", False, 68), ("float32", True, 77), ("float16", True, 68)):
        check(kernels, form(dtype=dtype, tf32=tf32), 3, by_cublaslt=True)
        assert fake_cublaslt.get("compute_type") == compute_type


def test_runs_make_nothing_and_ask_nothing(fake_cublaslt, kernels):
    with FeedForwardPlan(kernels, form(dtype="float16", **GATED)) as plan:
        made, asked = fake_cublaslt.get("created"), fake_cublaslt.get("queries")
        for num_tokens in (1, 3, 17, 32):
            run(plan, arrays_of(plan.form, num_tokens))
        assert (fake_cublaslt.get("created"), fake_cublaslt.get("queries")) == (made, asked)
        # Operands that no choice was made for: the heuristic is asked for exactly them.
        for layout in ({"gap": 1}, {"shift": 1}):
            run(plan, arrays_of(plan.form, 3, **layout))
            assert min(fake_cublaslt.recent("algorithms", 3)) >= (FOR_ANY if "shift" in layout else 0)
        assert (fake_cublaslt.get("created"), fake_cublaslt.get("queries")) == (made, asked + 6)


@pytest.mark.parametrize("refused", [24, 40], ids=["proj", "fc and gate"])
def test_products_that_cublaslt_refuses_are_computed_plainly(fake_cublaslt, kernels, refused):
    fake_cublaslt.set(refused_rows=refused)
    for parts in (PLAIN, GATED):
        check(kernels, form(dtype="bfloat16", **parts), 5, by_cublaslt=True)
        with FeedForwardPlan(kernels, form(dtype="bfloat16", **parts)) as plan:
            chosen = [each["chosen"] for each in plan.describe(5)["products"]]
            assert chosen[refused == 24] == "for each run"
            # There is nothing to time for that product, and that is no error.
            tune(plan, 5)
            assert [each["chosen"] for each in plan.describe(5)["products"]].count("by timing") == 1


def test_a_choice_that_one_token_count_of_its_bucket_does_not_have(fake_cublaslt, kernels):
    fake_cublaslt.set(narrow_columns=5)
    check(kernels, form(dtype="float16", **PLAIN), 5, by_cublaslt=True)
    assert min(fake_cublaslt.recent("algorithms", 2)) >= FOR_ANY
    check(kernels, form(dtype="float16", **PLAIN), 6, by_cublaslt=True)
    assert fake_cublaslt.recent("algorithms", 2) == [0, 0]


def test_scratch_memory_is_that_of_the_bucket(fake_cublaslt, kernels):
    # As much as the largest count of the bucket may have: float32 of 64 parts of 64 tokens.
    fake_cublaslt.set(scratch=64 * 4 * 64 * 40)
    with FeedForwardPlan(kernels, form(24, 40, 64, "float16", **GATED)) as plan:
        asked = fake_cublaslt.get("queries")
        for num_tokens in (33, 64):
            assert plan.workspace_size(num_tokens) >= fake_cublaslt.get("scratch") + 2 * 40 * 2 * num_tokens
            check_run(plan, num_tokens)
        assert fake_cublaslt.recent("algorithms", 6) == [0] * 6
        assert fake_cublaslt.get("queries") == asked
        # Smaller buckets have less, too little for any algorithm.
        assert plan.describe(32)["products"][0]["chosen"] == "for each run"


def test_what_breaks_is_reported(fake_cublaslt, kernels):
    with FeedForwardPlan(kernels, form()) as plan:
        fake_cublaslt.set(broken=1)
        with pytest.raises(KernelError, match=r"EXECUTION_FAILED \(13\) to a product of 3 tokens") as broken:
            run(plan, arrays_of(plan.form, 3))
        assert broken.value.status == "CUBLAS_FAILURE"


def test_no_handle_is_no_cublaslt(fake_cublaslt, kernels, monkeypatch, tmp_path):
    other = FakeCublasLt(shutil.copy(fake_cublaslt.path, tmp_path / "without_handles.so"))
    other.set(handles_refused=1)
    monkeypatch.setenv("TRTLLM_EXT_CUBLASLT", str(other.path))
    with FeedForwardPlan(kernels, form()) as plan:
        assert "gives no handle: NOT_INITIALIZED" in plan.describe(3)["no_cublaslt"]
        assert plan.describe(3)["road"] == "plain"


def test_threads_share_a_plan(fake_cublaslt, kernels):
    its = form(dtype="float16", **PLAIN)
    wanted = reference(its, arrays_of(its, 7), by_cublaslt=True)
    errors = []

    def work(plan):
        for num_tokens in (1, 7, 17, 7) * 3:
            got = run(plan, arrays_of(its, num_tokens))
            errors.append(error_of(got, wanted) if num_tokens == 7 else 0)

    with FeedForwardPlan(kernels, its) as plan:
        threads = [threading.Thread(target=work, args=(plan,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # Two products, and at most a set of six descriptors of each for every thread that was here.
        assert fake_cublaslt.get("live") <= 2 * 6 * 4
    assert len(errors) == 48
    assert max(errors) <= TOLERANCE["float16"]


def test_the_declarations_are_cublaslts_own(tmp_path):
    """The check against cublasLt's header compiles; without the header, or CUDA's, there is nothing to compare."""
    from cpu_library import cuda_include

    source = KERNELS / "cublaslt_abi_check.cpp"
    include = cuda_include()
    if not (include / "cublasLt.h").exists():
        pytest.skip(f"{include} has no cublasLt.h to compare the declarations with")
    command = [compiler(), "-std=c++17", "-fsyntax-only", "-I", str(include), str(source)]
    subprocess.run(command, check=True, capture_output=True, text=True)
