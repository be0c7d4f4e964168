"""feed_forward by cublasLt, played by a library that computes on the CPU: what it is asked for, and what is chosen.

That the real one does what this one does is not shown here: tests/on_gpu does that.
"""

import shutil
import subprocess
import threading
from dataclasses import replace

import numpy as np
import pytest
from cpu_library import KERNELS, compiler
from fake_cublaslt import FakeCublasLt
from feed_forward_arrays import TOLERANCE, arrays_of, check, error_of, form, reference, run, tune

from trtllm_ext.errors import KernelError
from trtllm_ext.plugin.feed_forward_plan import FeedForwardPlan
from trtllm_ext.plugin.kernels import load_kernels

BUDGET_S = 12

BIASES = {"has_fc_bias": True, "has_proj_bias": True}
PLAIN = {"activation": "relu", **BIASES, "has_residual": True}
GATED = {"activation": "silu", "gated": True, **BIASES, "has_gate_bias": True, "has_residual": True}
# cublasLt's numbers of the epilogues.
NOTHING, RELU, BIAS, RELU_BIAS, GELU, GELU_BIAS = 1, 2, 4, 6, 32, 36
# Algorithms of the fake from this one on take operands of any alignment.
FOR_ANY = 32


@pytest.fixture
def lt(fake_cublaslt):
    yield fake_cublaslt
    # Whatever a test did: what cublasLt made is given back, and no algorithm met operands that it cannot read.
    assert fake_cublaslt.get("live") == 0
    assert fake_cublaslt.get("broken_promises") == 0


@pytest.fixture(scope="module")
def kernels(kernels_on_cpu):
    return load_kernels(kernels_on_cpu)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("parts", [PLAIN, GATED, {}], ids=["plain", "gated", "bare"])
def test_token_counts(lt, kernels, parts, dtype):
    for num_tokens in (0, 1, 2, 3, 7, 17):
        check(kernels, form(dtype=dtype, **parts), num_tokens, by_cublaslt=True)


@pytest.mark.parametrize("layout", [{"gap": 8}, {"gap": 1}, {"shift": 1}, {"gap": 3, "shift": 5}], ids=str)
def test_layouts(lt, kernels, layout):
    for parts in (PLAIN, GATED):
        check(kernels, form(dtype="bfloat16", **parts), 5, by_cublaslt=True, **layout)
        check(kernels, form(7, 5, dtype="float16", **parts), 3, by_cublaslt=True, **layout)


EPILOGUES = {"identity": (NOTHING, BIAS), "relu": (RELU, RELU_BIAS), "gelu_tanh": (GELU, GELU_BIAS)}
APART = ("gelu_erf", "quick_gelu", "silu", "squared_relu", "sigmoid", "tanh")


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("activation", [*EPILOGUES, *APART])
def test_epilogues(lt, kernels, activation, biased):
    inner = EPILOGUES.get(activation, (NOTHING, NOTHING))[biased]
    its = form(dtype="float16", activation=activation, has_fc_bias=biased, has_proj_bias=biased)
    check(kernels, its, 5, by_cublaslt=True)
    assert lt.recent("epilogues", 2) == [inner, BIAS if biased else NOTHING]
    # A gate and a clamp leave no epilogue but the outer bias: the inner biases come after the products.
    check(kernels, replace(its, gated=True, gate_offset=0.5), 5, by_cublaslt=True)
    check(kernels, replace(its, clamp=0.5), 5, by_cublaslt=True)
    outer = BIAS if biased else NOTHING
    assert lt.recent("epilogues", 5) == [NOTHING, NOTHING, outer, NOTHING, outer]


def test_the_residual_is_what_the_product_is_added_to(lt, kernels):
    for has_residual in (False, True):
        check(kernels, form(has_residual=has_residual), 3, by_cublaslt=True)
        assert (lt.get("beta"), lt.get("in_place")) == (has_residual, 0)
    its = form(dtype="bfloat16", **GATED)
    arrays = arrays_of(its, 7, gap=8)
    wanted = reference(its, arrays, by_cublaslt=True)
    with FeedForwardPlan(kernels, its) as plan:
        got = run(plan, arrays | {"y": arrays["residual"]})
    assert error_of(got, wanted) <= TOLERANCE["bfloat16"]
    assert lt.get("in_place") == 1


def test_tf32_only_where_it_is_asked_for(lt, kernels):
    for dtype, tf32, compute_type in (("float32", False, 68), ("float32", True, 77), ("float16", True, 68)):
        check(kernels, form(dtype=dtype, tf32=tf32), 3, by_cublaslt=True)
        assert lt.get("compute_type") == compute_type


def test_runs_make_nothing_and_ask_nothing(lt, kernels):
    with FeedForwardPlan(kernels, form(dtype="float16", **GATED)) as plan:
        made, asked = lt.get("created"), lt.get("queries")
        for num_tokens in (1, 3, 17, 32):
            run(plan, arrays_of(plan.form, num_tokens))
        assert (lt.get("created"), lt.get("queries")) == (made, asked)
        # Operands that no choice was made for: the heuristic is asked for exactly them.
        for layout in ({"gap": 1}, {"shift": 1}):
            run(plan, arrays_of(plan.form, 3, **layout))
            assert min(lt.recent("algorithms", 3)) >= (FOR_ANY if "shift" in layout else 0)
        assert (lt.get("created"), lt.get("queries")) == (made, asked + 6)


def test_the_fastest_is_kept(lt, kernels):
    lt.set(fastest=17, slow_us=300)
    with FeedForwardPlan(kernels, form(dtype="float16", **GATED)) as plan:
        assert plan.describe(5)["products"][0]["chosen"] == "by cublasLt's heuristic"
        tune(plan, 5)
        for num_tokens in (5, 8):
            described = plan.describe(num_tokens)
            assert [each["of"] for each in described["products"]] == ["fc, gate", "proj"]
            assert all(each["chosen"] == "by timing" for each in described["products"])
            assert all(0 < each["microseconds"] < 300 for each in described["products"])
            check_run(plan, num_tokens)
            assert lt.recent("algorithms", 3) == [17] * 3
        # Another bucket has its own choice.
        run(plan, arrays_of(plan.form, 9))
        assert lt.recent("algorithms", 3) == [0] * 3


def test_tuning_leaves_the_result_of_a_run(lt, kernels):
    its = form(dtype="float16", **GATED)
    arrays = arrays_of(its, 5)
    wanted = reference(its, arrays, by_cublaslt=True)
    with FeedForwardPlan(kernels, its) as plan:
        tune_on(plan, arrays)
    assert error_of(arrays["y"], wanted) <= TOLERANCE["float16"]


def test_algorithms_that_fail_are_left_out(lt, kernels):
    # The fastest is offered and then refuses; and there are fewer algorithms than may be tried.
    lt.set(fastest=3, slow_us=300, refused=3, num_algorithms=5)
    with FeedForwardPlan(kernels, form()) as plan:
        tune(plan, 4)
        check_run(plan, 4)
        assert plan.describe(4)["products"][0]["chosen"] == "by timing"
        assert 3 not in lt.recent("algorithms", 2)


def test_what_cannot_be_tuned(lt, kernels):
    with FeedForwardPlan(kernels, form(has_residual=True)) as plan:
        arrays = arrays_of(plan.form, 3)
        for given, text in (
            (arrays | {"y": arrays["residual"]}, "y is the residual's memory"),
            (arrays_of(plan.form, 3, shift=1), "multiple of 16 bytes"),
            (arrays_of(plan.form, 3, gap=1), "multiple of 16 bytes"),
        ):
            with pytest.raises(KernelError, match=text) as refused:
                tune_on(plan, given)
            assert refused.value.status == "INVALID_ARGUMENT"
        assert plan.describe(3)["products"][0]["chosen"] == "by cublasLt's heuristic"


def test_choices_go_from_plan_to_plan(lt, kernels):
    lt.set(fastest=21, slow_us=200)
    its = form(dtype="float16", **GATED)
    with FeedForwardPlan(kernels, its) as plan:
        nothing = plan.choices()
        tune(plan, 3)
        tune(plan, 30)
        choices, described = plan.choices(), plan.describe(4)
    lt.set(fastest=-1)
    with FeedForwardPlan(kernels, its) as other:
        assert other.take_choices(nothing) == 0
        assert other.take_choices(choices) == 4
        assert other.describe(4) == described
        assert other.choices() == choices
        check_run(other, 4)
        assert lt.recent("algorithms", 3) == [21] * 3
    # Fewer tokens: the last bucket ends elsewhere, the others are the same.
    with FeedForwardPlan(kernels, replace(its, max_num_tokens=20)) as fewer:
        assert fewer.take_choices(choices) == 2
        assert fewer.describe(20)["products"][0]["chosen"] == "by cublasLt's heuristic"
    for foreign in (replace(its, activation="tanh"), replace(its, dtype="bfloat16"), form()):
        with FeedForwardPlan(kernels, foreign) as other:
            assert other.take_choices(choices) == 0
    # What cublasLt does not accept any more is left aside.
    lt.set(num_algorithms=10)
    with FeedForwardPlan(kernels, its) as other:
        assert other.take_choices(choices) == 0


def test_choices_of_another_cublaslt(lt, kernels, monkeypatch, tmp_path):
    with FeedForwardPlan(kernels, form()) as plan:
        tune(plan, 3)
        choices = plan.choices()
    older = FakeCublasLt(shutil.copy(lt.path, tmp_path / "libcublasLt.so.12"))
    older.set(version=120805)
    monkeypatch.setenv("TRTLLM_EXT_CUBLASLT", str(older.path))
    with FeedForwardPlan(kernels, form()) as plan:
        assert plan.describe(3)["cublaslt_version"] == 120805
        assert plan.describe(3)["cublaslt"] == str(older.path)
        assert plan.take_choices(choices) == 0
    monkeypatch.setenv("TRTLLM_EXT_CUBLASLT", str(tmp_path / "missing.so"))
    with FeedForwardPlan(kernels, form()) as plan:
        assert plan.take_choices(choices) == 0


def test_damaged_choices_are_refused(lt, kernels):
    with FeedForwardPlan(kernels, form()) as plan:
        tune(plan, 3)
        choices = plan.choices()
        assert len(choices) < 1000
        damaged = [choices[:-1], choices[:20], choices[: len(choices) // 2], choices + b"\0", b"", b"x" * 500]
        for at in range(0, len(choices), 5):
            damaged.append(choices[:at] + bytes([choices[at] ^ 16]) + choices[at + 1 :])
        for each in damaged:
            with pytest.raises(KernelError, match="no choices, or damaged") as refused:
                plan.take_choices(each)
            assert refused.value.status == "INVALID_ARGUMENT"
        assert plan.take_choices(choices) == 2


@pytest.mark.parametrize("refused", [24, 40], ids=["proj", "fc and gate"])
def test_products_that_cublaslt_refuses_are_computed_plainly(lt, kernels, refused):
    lt.set(refused_rows=refused)
    for parts in (PLAIN, GATED):
        check(kernels, form(dtype="bfloat16", **parts), 5, by_cublaslt=True)
        with FeedForwardPlan(kernels, form(dtype="bfloat16", **parts)) as plan:
            chosen = [each["chosen"] for each in plan.describe(5)["products"]]
            assert chosen[refused == 24] == "for each run"
            # There is nothing to time for that product, and that is no error.
            tune(plan, 5)
            assert [each["chosen"] for each in plan.describe(5)["products"]].count("by timing") == 1


def test_a_choice_that_one_token_count_of_its_bucket_does_not_have(lt, kernels):
    lt.set(narrow_columns=5)
    check(kernels, form(dtype="float16", **PLAIN), 5, by_cublaslt=True)
    assert min(lt.recent("algorithms", 2)) >= FOR_ANY
    check(kernels, form(dtype="float16", **PLAIN), 6, by_cublaslt=True)
    assert lt.recent("algorithms", 2) == [0, 0]


def test_what_breaks_is_reported(lt, kernels):
    with FeedForwardPlan(kernels, form()) as plan:
        lt.set(broken=1)
        with pytest.raises(KernelError, match=r"EXECUTION_FAILED \(13\) to a product of 3 tokens") as broken:
            run(plan, arrays_of(plan.form, 3))
        assert broken.value.status == "CUBLAS_FAILURE"


def test_no_handle_is_no_cublaslt(lt, kernels, monkeypatch, tmp_path):
    other = FakeCublasLt(shutil.copy(lt.path, tmp_path / "without_handles.so"))
    other.set(handles_refused=1)
    monkeypatch.setenv("TRTLLM_EXT_CUBLASLT", str(other.path))
    with FeedForwardPlan(kernels, form()) as plan:
        assert "gives no handle: NOT_INITIALIZED" in plan.describe(3)["no_cublaslt"]
        assert plan.describe(3)["road"] == "plain"


def test_threads_share_a_plan(lt, kernels):
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
        assert lt.get("live") <= 2 * 6 * 4
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


def check_run(plan, num_tokens):
    arrays = arrays_of(plan.form, num_tokens)
    wanted = reference(plan.form, arrays, by_cublaslt=True)
    assert error_of(run(plan, arrays), wanted) <= TOLERANCE[plan.form.dtype]


def tune_on(plan, arrays):
    from feed_forward_arrays import workspace_for

    plan.tune(**arrays, workspace=workspace_for(plan, len(arrays["x"])))


def test_arrays_are_not_all_alike():
    """The references of two forms differ: a test that compared the wrong ones would fail."""
    plain, gated = form(**PLAIN), form(**GATED)
    a, b = (reference(each, arrays_of(each, 3), by_cublaslt=True) for each in (plain, gated))
    assert np.abs(a - b).max() > 0.1
