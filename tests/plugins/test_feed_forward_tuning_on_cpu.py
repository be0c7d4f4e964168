"""Tuning feed_forward plans and keeping their choices, with a cublasLt that is played on the CPU."""

import shutil
from dataclasses import replace

import pytest
from fake_cublaslt import FakeCublasLt
from feed_forward_arrays import TOLERANCE, arrays_of, check_run, error_of, form, reference, run, tune, tune_on

from trtllm_ext.errors import KernelError
from trtllm_ext.plugin.feed_forward_plan import FeedForwardPlan
from trtllm_ext.plugin.kernels import load_kernels

BUDGET_S = 2

PLAIN = {"activation": "relu", "has_fc_bias": True, "has_proj_bias": True, "has_residual": True}
GATED = {**PLAIN, "activation": "silu", "gated": True, "has_gate_bias": True}


@pytest.fixture(scope="module")
def kernels(kernels_on_cpu):
    return load_kernels(kernels_on_cpu)


def test_the_fastest_is_kept(fake_cublaslt, kernels):
    fake_cublaslt.set(fastest=17, slow_us=300)
    with FeedForwardPlan(kernels, form(dtype="float16", **GATED)) as plan:
        assert plan.describe(5)["products"][0]["chosen"] == "by cublasLt's heuristic"
        tune(plan, 5)
        for num_tokens in (5, 8):
            described = plan.describe(num_tokens)
            assert [each["of"] for each in described["products"]] == ["fc, gate", "proj"]
            assert all(each["chosen"] == "by timing" for each in described["products"])
            assert all(0 < each["microseconds"] < 300 for each in described["products"])
            check_run(plan, num_tokens)
            assert fake_cublaslt.recent("algorithms", 3) == [17] * 3
        # Another bucket has its own choice.
        run(plan, arrays_of(plan.form, 9))
        assert fake_cublaslt.recent("algorithms", 3) == [0] * 3


def test_tuning_leaves_the_result_of_a_run(fake_cublaslt, kernels):
    its = form(dtype="float16", **GATED)
    arrays = arrays_of(its, 5)
    wanted = reference(its, arrays, by_cublaslt=True)
    with FeedForwardPlan(kernels, its) as plan:
        tune_on(plan, arrays)
    assert error_of(arrays["y"], wanted) <= TOLERANCE["float16"]


def test_algorithms_that_fail_are_left_out(fake_cublaslt, kernels):
    # The fastest is offered and then refuses; and there are fewer algorithms than may be tried.
    fake_cublaslt.set(fastest=3, slow_us=300, refused=3, num_algorithms=5)
    with FeedForwardPlan(kernels, form()) as plan:
        tune(plan, 4)
        check_run(plan, 4)
        assert plan.describe(4)["products"][0]["chosen"] == "by timing"
        assert 3 not in fake_cublaslt.recent("algorithms", 2)


def test_parts_of_a_product_are_added_in_float32(fake_cublaslt, kernels):
    # Algorithm 5 rounds parts to the output's type first.
    fake_cublaslt.set(fastest=5, slow_us=200, num_algorithms=12)
    for dtype in ("float32", "float16", "bfloat16"):
        with FeedForwardPlan(kernels, form(dtype=dtype)) as plan:
            tune(plan, 4)
            run(plan, arrays_of(plan.form, 4))
        assert (fake_cublaslt.recent("algorithms", 2) == [5, 5]) == (dtype == "float32")


def test_what_cannot_be_tuned(fake_cublaslt, kernels):
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


def test_choices_go_from_plan_to_plan(fake_cublaslt, kernels):
    fake_cublaslt.set(fastest=21, slow_us=200)
    its = form(dtype="float16", **GATED)
    with FeedForwardPlan(kernels, its) as plan:
        nothing = plan.choices()
        tune(plan, 3)
        tune(plan, 30)
        choices, described = plan.choices(), plan.describe(4)
    fake_cublaslt.set(fastest=-1)
    with FeedForwardPlan(kernels, its) as other:
        assert other.take_choices(nothing) == 0
        assert other.take_choices(choices) == 4
        assert other.describe(4) == described
        assert other.choices() == choices
        check_run(other, 4)
        assert fake_cublaslt.recent("algorithms", 3) == [21] * 3
    # Fewer tokens: the last bucket ends elsewhere, the others are the same.
    with FeedForwardPlan(kernels, replace(its, max_num_tokens=20)) as fewer:
        assert fewer.take_choices(choices) == 2
        assert fewer.describe(20)["products"][0]["chosen"] == "by cublasLt's heuristic"
        tune(fewer, 20)
        with FeedForwardPlan(kernels, its) as other:
            assert other.take_choices(fewer.choices()) == 2
            assert other.describe(20)["products"][0]["chosen"] == "by cublasLt's heuristic"
    for foreign in (replace(its, activation="tanh"), replace(its, dtype="bfloat16"), form()):
        with FeedForwardPlan(kernels, foreign) as other:
            assert other.take_choices(choices) == 0
    # What cublasLt does not accept any more is left aside.
    fake_cublaslt.set(num_algorithms=10)
    with FeedForwardPlan(kernels, its) as other:
        assert other.take_choices(choices) == 0


def test_choices_of_another_cublaslt(fake_cublaslt, kernels, monkeypatch, tmp_path):
    with FeedForwardPlan(kernels, form()) as plan:
        tune(plan, 3)
        choices = plan.choices()
    older = FakeCublasLt(shutil.copy(fake_cublaslt.path, tmp_path / "libcublasLt.so.12"))
    older.set(version=120805)
    monkeypatch.setenv("TRTLLM_EXT_CUBLASLT", str(older.path))
    with FeedForwardPlan(kernels, form()) as plan:
        assert plan.describe(3)["cublaslt_version"] == 120805
        assert plan.describe(3)["cublaslt"] == str(older.path)
        assert plan.take_choices(choices) == 0
    monkeypatch.setenv("TRTLLM_EXT_CUBLASLT", str(tmp_path / "missing.so"))
    with FeedForwardPlan(kernels, form()) as plan:
        assert plan.take_choices(choices) == 0


def test_damaged_choices_are_refused(fake_cublaslt, kernels):
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
