"""The feed-forward sublayer: our tuned plan beside torch eager, torch.compile and bare products of the best tuning."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from cases import Case, Ready, Setting
from timing import number_of_sets, relative_error
from torch import Tensor
from torch.nn import functional

from trtllm_ext.plugin.feed_forward_plan import FeedForwardForm, FeedForwardPlan

Weights = dict[str, Tensor]


def cases(setting: Setting) -> list[Case]:
    """Plain (ReLU, biases) and gated (SiLU) with the residual; the large token counts first."""
    tokens = (5,) if setting.tiny else (2048, 8192, 256, 32)
    sizes = (
        {"plain": (32, 64), "gated": (32, 48)}
        if setting.tiny
        else {"plain": (4096, 16384), "gated": (4096, 14336)}
    )
    return [_case(setting, form, count, *size) for count in tokens for form, size in sizes.items()]


def _case(setting: Setting, form: str, num_tokens: int, hidden: int, ffn: int) -> Case:
    products = 3 if form == "gated" else 2
    weight_bytes = products * hidden * ffn * setting.dtype.itemsize
    return Case(
        name=f"{form}, T={num_tokens}",
        table="feed-forward",
        begin=lambda: _Sides(setting, form, num_tokens, hidden, ffn).ready(weight_bytes),
        moved_bytes=weight_bytes + 3 * num_tokens * hidden * setting.dtype.itemsize,
        operations=2.0 * products * num_tokens * hidden * ffn,
    )


class _Sides:
    """One case's data and its variants."""

    def __init__(self, setting: Setting, form: str, num_tokens: int, hidden: int, ffn: int) -> None:
        self.setting, self.gated = setting, form == "gated"
        self.num_tokens, self.hidden, self.ffn = num_tokens, hidden, ffn

    def ready(self, weight_bytes: float) -> Ready:
        self.sets = 2 if self.setting.tiny else number_of_sets(weight_bytes)
        self.data = [self._set() for _ in range(self.sets)]
        self.y = [torch.empty_like(each["x"]) for each in self.data]
        self.plans: dict[str, Any] = {}
        self.calls = {"ours": self._planned("ours"), **self._of_torch(), **self._bare()}
        return Ready(self.calls, self.sets, self.error, {"plans": self.plans})

    def error(self, name: str) -> float:
        """Against float64, of the first data set; bare products against themselves in float64."""
        result = self.calls[name](0)
        data = self.data[0]
        got = self.y[0] if result is None else result
        return relative_error(got, _exact(data, self.gated, bare=name.startswith("bare")))

    def _set(self) -> Weights:
        hidden, ffn, random = self.hidden, self.ffn, self.setting.random
        data = {
            "x": random(self.num_tokens, hidden),
            "residual": random(self.num_tokens, hidden),
            "fc_weight": random(ffn, hidden, scale=hidden**-0.5),
            "proj_weight": random(hidden, ffn, scale=ffn**-0.5),
        }
        if self.gated:
            # One buffer, so that one product may read both.
            both = random(2 * ffn, hidden, scale=hidden**-0.5)
            return data | {"fc_weight": both[:ffn], "gate_weight": both[ffn:], "both": both}
        return data | {"fc_bias": random(ffn), "proj_bias": random(hidden)}

    def _plan(self, bare: bool) -> tuple[FeedForwardPlan, Tensor]:
        form = FeedForwardForm(
            hidden_size=self.hidden,
            ffn_hidden_size=self.ffn,
            max_num_tokens=self.num_tokens,
            dtype=str(self.setting.dtype).removeprefix("torch."),
            activation="identity" if bare else "silu" if self.gated else "relu",
            gated=self.gated and not bare,
            has_fc_bias=not (bare or self.gated),
            has_proj_bias=not (bare or self.gated),
            has_residual=not bare,
        )
        plan = FeedForwardPlan(self.setting.kernels, form)
        workspace = torch.empty(plan.workspace_size() + 256, dtype=torch.uint8, device=self.setting.device)
        return plan, workspace[-workspace.data_ptr() % 256 :]

    def _planned(self, name: str) -> Callable[[int], object]:
        bare = name.startswith("bare")
        plan, workspace = self._plan(bare)
        names = (
            ("fc_weight", "proj_weight")
            if bare
            else tuple(name for name in self.data[0] if name not in ("x", "both"))
        )

        def given(number: int) -> dict[str, Any]:
            tensors = {name: self.data[number][name] for name in names}
            return tensors | {"workspace": workspace, "stream": self.setting.stream()}

        if self.setting.device != "cpu":  # the stand-in for CUDA has no cublasLt, and nothing to choose from
            plan.tune(self.data[0]["x"], self.y[0], **given(0))
        told = plan.describe(self.num_tokens)
        self.plans[name] = told | {"cublaslt": Path(told["cublaslt"]).name} if "cublaslt" in told else told
        return lambda number: plan.run(self.data[number]["x"], self.y[number], **given(number))

    def _of_torch(self) -> dict[str, Callable[[int], object]]:
        def eager(
            x: Tensor, residual: Tensor, fc_weight: Tensor, proj_weight: Tensor, **other: Tensor
        ) -> Tensor:
            inner = functional.linear(x, fc_weight, other.get("fc_bias"))
            if self.gated:
                inner = functional.silu(inner) * functional.linear(x, other["gate_weight"])
            else:
                inner = torch.relu(inner)
            return functional.linear(inner, proj_weight, other.get("proj_bias")) + residual

        compiled = self.setting.compile(eager)
        given = [{name: each for name, each in data.items() if name != "both"} for data in self.data]
        return {
            "torch eager": lambda number: eager(**given[number]),
            "torch.compile": lambda number: compiled(**given[number]),
        }

    def _bare(self) -> dict[str, Callable[[int], object]]:
        """The products alone, nothing between them: torch's with either library, and the plan's tuned ones."""
        inner = torch.empty(self.num_tokens, self.ffn, dtype=self.setting.dtype, device=self.setting.device)
        both = torch.empty(self.num_tokens, 2 * self.ffn, dtype=inner.dtype, device=inner.device)

        def products(number: int) -> None:
            data = self.data[number]
            if self.gated:
                torch.mm(data["x"], data["both"].T, out=both)
            else:
                torch.mm(data["x"], data["fc_weight"].T, out=inner)
            # What the gated second product reads does not matter to its time: any random numbers, not zeros.
            torch.mm(inner, data["proj_weight"].T, out=self.y[number])

        torch.mm(self.data[0]["x"], self.data[0]["fc_weight"].T, out=inner)
        if self.setting.device == "cpu":
            found: dict[str, Callable[[int], object]] = {"bare, torch": products}
        else:
            found = {
                f"bare, torch with {name}": _with_library(name, products) for name in ("cublas", "cublaslt")
            }
        if not self.gated:
            found["bare, tuned"] = self._planned("bare, tuned")
        return found


def _with_library(name: str, call: Callable[[int], None]) -> Callable[[int], None]:
    """`call` with torch's products made by this library: read when the call is captured."""

    def chosen(number: int) -> None:
        before = torch.backends.cuda.preferred_blas_library()
        torch.backends.cuda.preferred_blas_library(name)
        try:
            call(number)
        finally:
            torch.backends.cuda.preferred_blas_library(before)

    return chosen


def _exact(data: Weights, gated: bool, bare: bool) -> Tensor:
    """y in float64, with the inner activations rounded to the data's type."""
    wide = {name: each.double() for name, each in data.items() if name != "both"}
    inner = wide["x"] @ wide["fc_weight"].T
    if not bare:
        if gated:
            inner = functional.silu(inner) * (wide["x"] @ wide["gate_weight"].T)
        else:
            inner = torch.relu(inner + wide["fc_bias"])
    y = inner.to(data["x"].dtype).double() @ wide["proj_weight"].T
    if bare:
        return y
    return y + wide["residual"] + (0.0 if gated else wide["proj_bias"])
