"""One call of a kernel against float64, on any device: what the tests on the CPU and those on a GPU share."""

import zlib
from dataclasses import dataclass
from typing import Any

import kernel_formulas as formulas
import torch
from kernel_buffers import Buffers, bits
from kernel_cases import ActivationCase, FeedForwardCase, NormCase

from trtllm_ext.plugin.feed_forward_plan import FeedForwardForm, FeedForwardPlan
from trtllm_ext.plugin.kernels import Kernels

# Two products with inner activations rounded in between: where the accumulation turns a rounding over, the next
# product spreads it. float32 has thousands of terms in an order of its own.
_FEED_FORWARD_TOLERANCE = {torch.float32: 4e-6, torch.float16: 1e-3, torch.bfloat16: 4e-3}
_TF32_TOLERANCE = 1.5e-3
_WORKSPACE_ALIGNMENT = 256


@dataclass(frozen=True)
class Lab:
    """Where kernels are tried: a library, and a device, 'cpu' for the stand-in."""

    kernels: Kernels
    device: str

    @property
    def stream(self) -> Any:
        return torch.cuda.current_stream() if self.device == "cuda" else None

    def buffers(self, case: object) -> Buffers:
        """Buffers with random numbers of the case's own."""
        return Buffers(self.device, zlib.crc32(str(case).encode()))


def close(got, wanted, tolerance, what):
    """Fail unless |got - wanted| <= tolerance |wanted|; NaN never passes."""
    error = formulas.relative_error(got, wanted)
    assert error <= tolerance, f"{what} is off by {error:.2e}; {tolerance:.1e} is right"


def norm_call(lab: Lab, case: NormCase):
    """Buffers, arguments for Kernels.residual_norm, and copies of its inputs, which may be overwritten."""
    buffers, dtype, layout = lab.buffers(case), getattr(torch, case.dtype), case.layout
    rows = (case.num_tokens, case.hidden)
    given = {"x": buffers.rows(*rows, dtype, layout)}
    if "residual" in case.parts:
        given["residual"] = buffers.rows(*rows, dtype, layout)
    for name in ("bias", "weight", "norm_bias"):
        if name in case.parts:
            given[name] = buffers.random(case.hidden, dtype=dtype)
    inputs = {name: value.clone() for name, value in given.items()}
    memory = {"sum": given.get("residual"), "normed": given["x"]} if layout == "in_place" else {}
    for name in case.outputs:
        here = memory.get(name)
        given[name] = buffers.poisoned(*rows, dtype, layout) if here is None else here
    if case.quantized:
        given["quantized"] = buffers.poisoned(*rows, getattr(torch, case.quantized), layout)
        given["scales"] = buffers.poisoned(1, case.num_tokens, torch.float32).reshape(-1)
    settings = {
        "norm": case.norm,
        "eps": case.eps,
        "weight_offset": case.weight_offset,
        "rounding": case.rounding,
    }
    return buffers, given | settings, inputs


def check_residual_norm(lab: Lab, case: NormCase) -> None:
    """residual_norm of one case is its formula, and writes nothing else."""
    buffers, arguments, inputs = norm_call(lab, case)
    lab.kernels.residual_norm(**arguments, stream=lab.stream)
    dtype = inputs["x"].dtype
    total = formulas.added(inputs["x"], inputs.get("residual"), inputs.get("bias"))
    if "sum" in case.outputs:
        close(arguments["sum"], total, formulas.TOLERANCE[dtype] / 10, "the sum")
        # The sum is an ulp off here and there, in float32 always: statistics are of what was stored.
        total = arguments["sum"].double()
    settings = {
        "norm": case.norm,
        "eps": case.eps,
        "weight_offset": case.weight_offset,
        "rounding": case.rounding,
    }
    if case.norm != "no_norm":
        value = formulas.normed(total, dtype, inputs.get("weight"), inputs.get("norm_bias"), **settings)
        if "normed" in case.outputs:
            close(arguments["normed"], value, formulas.TOLERANCE[dtype], "the normed rows")
            _check_rounding(arguments["normed"], value)
        if case.quantized:
            _check_quantized(arguments["quantized"], arguments["scales"], value)
    buffers.check_around()


def _check_rounding(got, value):
    """Narrow types: nearly every element is the one that the reference rounds to, so that each rounding has its place.

    float32's own error turns a rounding over in one of some hundred elements at most.
    """
    if got.dtype != torch.float32 and got.numel() >= 100:
        same = (got.double() == formulas.rounded(value, got.dtype)).double().mean()
        assert same >= 0.97, f"only {float(same):.1%} of the elements are rounded as they should be"


def _check_quantized(quantized, scales, value):
    """Each row is round(value / scale) within a step, with the scale of its largest magnitude."""
    wanted = formulas.scales_of(value, quantized.dtype).reshape(-1)
    close(scales, wanted, 1e-5, "the scales")
    scaled = value / wanted.where(wanted > 0, torch.ones_like(wanted))[:, None]
    # int8 has steps of 1; float8_e4m3fn has 3 bits after the first, and steps of 2^-9 below 2^-6.
    power = torch.floor(torch.log2(scaled.abs().clamp(min=2**-6)))
    step = torch.ones_like(scaled) if quantized.dtype == torch.int8 else torch.exp2(power - 3)
    off = (quantized.double() - scaled).abs() / step
    assert not off.isnan().any()
    assert not off.numel() or off.max() <= 0.51, f"an element is {float(off.max()):.2f} steps off"


def activation_call(lab: Lab, case: ActivationCase):
    """As `norm_call`, for Kernels.gated_activation."""
    buffers, dtype, layout = lab.buffers(case), getattr(torch, case.dtype), case.layout
    rows = (case.num_tokens, case.width)
    given = {}
    if layout == "halves":
        given["fc"], given["gate"] = buffers.halves(*rows, dtype)
    else:
        given["fc"] = buffers.rows(*rows, dtype, layout)
        if "gate" in case.parts:
            given["gate"] = buffers.rows(*rows, dtype, layout)
    for name in ("fc_bias", "gate_bias"):
        if name in case.parts:
            given[name] = buffers.random(case.width, dtype=dtype)
    inputs = {name: value.clone() for name, value in given.items()}
    output = given["fc"] if layout == "in_place" else buffers.poisoned(*rows, dtype, layout)
    settings = {"activation": case.activation, "clamp": case.clamp, "gate_offset": case.gate_offset}
    return buffers, given | {"output": output} | settings, inputs | settings


def check_gated_activation(lab: Lab, case: ActivationCase) -> None:
    """gated_activation of one case is its formula, and writes nothing else."""
    buffers, arguments, inputs = activation_call(lab, case)
    lab.kernels.gated_activation(**arguments, stream=lab.stream)
    wanted = formulas.gated(**inputs)
    close(arguments["output"], wanted, formulas.TOLERANCE[arguments["output"].dtype], "the output")
    buffers.check_around()


def form_of(case: FeedForwardCase) -> FeedForwardForm:
    """The plan's form, for at most the case's tokens."""
    has = {f"has_{name}": name in case.parts for name in ("fc_bias", "gate_bias", "proj_bias", "residual")}
    return FeedForwardForm(
        hidden_size=case.hidden,
        ffn_hidden_size=case.ffn,
        max_num_tokens=max(case.num_tokens, 1),
        dtype=case.dtype,
        activation=case.activation,
        gated="gate_weight" in case.parts,
        clamp=case.clamp,
        gate_offset=case.gate_offset,
        tf32=case.tf32,
        **has,
    )


def feed_forward_call(lab: Lab, case: FeedForwardCase):
    """As `norm_call`, for FeedForwardPlan.run but for the workspace."""
    buffers, dtype, layout = lab.buffers(case), getattr(torch, case.dtype), case.layout
    shapes = {
        "fc_weight": (case.ffn, case.hidden),
        "gate_weight": (case.ffn, case.hidden),
        "proj_weight": (case.hidden, case.ffn),
        "fc_bias": (case.ffn,),
        "gate_bias": (case.ffn,),
        "proj_bias": (case.hidden,),
    }
    rows = (case.num_tokens, case.hidden)
    given = {"x": buffers.rows(*rows, dtype, layout)}
    for name, shape in shapes.items():
        if name in ("fc_weight", "proj_weight", *case.parts):
            given[name] = buffers.random(
                *shape, dtype=dtype, scale=shape[-1] ** -0.5 if len(shape) > 1 else 1.0
            )
    if "residual" in case.parts:
        given["residual"] = buffers.rows(*rows, dtype, layout)
    inputs = {name: value.clone() for name, value in given.items()}
    in_place = layout == "in_place" and "residual" in given
    y = given["residual"] if in_place else buffers.poisoned(*rows, dtype, layout)
    return buffers, given | {"y": y}, inputs


def workspace_for(lab: Lab, plan: FeedForwardPlan, num_tokens: int):
    """Workspace full of NaN, of the size that the plan asks for and not a byte more."""
    size = plan.workspace_size(num_tokens)
    whole = torch.full((size + _WORKSPACE_ALIGNMENT,), 255, dtype=torch.uint8, device=lab.device)
    first = -whole.data_ptr() % _WORKSPACE_ALIGNMENT
    return whole[first : first + size]


def check_feed_forward(lab: Lab, case: FeedForwardCase) -> None:
    """feed_forward of one case is its formula, and writes nothing else; a second run gives the same bits."""
    buffers, arguments, inputs = feed_forward_call(lab, case)
    with FeedForwardPlan(lab.kernels, form_of(case)) as plan:
        if case.tuned:
            spare = {**arguments, "y": torch.empty_like(arguments["y"])}
            plan.tune(**spare, workspace=workspace_for(lab, plan, case.num_tokens), stream=lab.stream)
        plan.run(**arguments, workspace=workspace_for(lab, plan, case.num_tokens), stream=lab.stream)
        first = arguments["y"].clone()
        # In the same memory: rows that lie elsewhere may be another algorithm's, which adds in another order.
        arguments["y"].fill_(float("nan"))
        for name in ("x", "residual"):
            if name in inputs:
                arguments[name].copy_(inputs[name])
        plan.run(**arguments, workspace=workspace_for(lab, plan, case.num_tokens), stream=lab.stream)
        assert torch.equal(bits(first), bits(arguments["y"])), "a second run gave other numbers"
        by_cublaslt = plan.describe(case.num_tokens).get("road") == "cublaslt"
    settings = {
        "activation": case.activation,
        "clamp": case.clamp,
        "gate_offset": case.gate_offset,
        "by_cublaslt": by_cublaslt,
    }
    tolerance = _TF32_TOLERANCE if case.tf32 else _FEED_FORWARD_TOLERANCE[first.dtype]
    close(first, formulas.feed_forward(inputs, **settings), tolerance, "y")
    buffers.check_around()
