"""Layers for the program that plays TensorRT's part (tests/plugins/tensorrt_player), and what they compute.

That program is not TensorRT.

No torch before a result is compared, so that pytest can list the cases without it.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trtllm_ext.plugin.c_interface import Activation, Norm, Rounding, Type
from trtllm_ext.plugin.operation import Operation
from trtllm_ext.plugin.operations import OPERATIONS

# TensorRT's numbers of types.
TENSORRT_TYPES = {"float32": 0, "float16": 1, "int8": 2, "float8_e4m3fn": 6, "bfloat16": 7}
# The profile, in tokens.
LEAST, BEST, MOST = 1, 4, 16
_OUTPUT_TYPES = {Type.INT8: "int8", Type.FLOAT8_E4M3: "float8_e4m3fn"}


@dataclass(frozen=True, kw_only=True)
class LayerCase:
    """A layer of an operation. given: its fields beside `type`, by names or numbers of the enumerations."""

    operation: str
    dtype: str = "float32"
    given: dict[str, Any] = field(default_factory=dict)
    hidden: int = 16
    ffn: int = 32

    def __str__(self) -> str:
        told = [f"{name}={getattr(value, 'name', value)}" for name, value in self.given.items()]
        return "-".join([self.operation, self.dtype, *told])

    @property
    def record(self) -> Operation:
        return OPERATIONS[self.operation]

    @property
    def fields(self) -> dict[str, int | float]:
        return self.record.complete({"type": Type[self.dtype.upper()], **self.given})

    def shape_of(self, axes: tuple[str, ...], num_tokens: int) -> tuple[int, ...]:
        """The shape of an operand of these axes; leading axes are the tokens."""
        sizes = {"...": num_tokens, "1": 1, "ffn_hidden_size": self.ffn}
        return tuple(sizes.get(axis, self.hidden) for axis in axes)

    def output_types(self) -> list[str]:
        quantized = _OUTPUT_TYPES.get(Type(self.fields.get("quantized_type", 0)), "")
        types = {"type": self.dtype, "quantized_type": quantized, "float32": "float32"}
        return [types[each.type] for each in self.record.outputs_of(self.fields)]


NORM = {"norm": Norm.RMS_NORM, "eps": 1e-5, "has_residual": 1, "has_weight": 1}
FULL_NORM = {**NORM, "norm": Norm.LAYER_NORM, "has_bias": 1, "has_norm_bias": 1}
GATED = {"activation": Activation.SILU, "gated": 1}
PLAIN_FFN = {"activation": Activation.GELU_TANH, "has_fc_bias": 1, "has_proj_bias": 1, "has_residual": 1}
FULL_FFN = {**PLAIN_FFN, **GATED, "has_gate_bias": 1, "clamp": 2.0, "gate_offset": 1.0}


def cases(types: tuple[str, ...], **sizes: int) -> list[LayerCase]:
    """Each operation in each type, with all of its inputs and with few; the forms of its fields, once."""

    def case(operation: str, given: dict[str, Any], dtype: str) -> LayerCase:
        return LayerCase(operation=operation, dtype=dtype, given=given, **sizes)

    made = [
        case(operation, given, dtype)
        for dtype in types
        for operation, given in (
            ("residual_norm", FULL_NORM),
            ("gated_activation", GATED),
            ("feed_forward", PLAIN_FFN),
            ("feed_forward", FULL_FFN),
        )
    ]
    dtype = types[-1]
    made += [
        case("residual_norm", {**NORM, "has_sum": 0, "rounding": Rounding.BEFORE_WEIGHT}, dtype),
        case("residual_norm", {**FULL_NORM, "quantized_type": Type.INT8}, dtype),
        case("residual_norm", {"norm": Norm.NO_NORM, "has_residual": 1}, dtype),
        case("gated_activation", {"activation": Activation.SQUARED_RELU}, dtype),
        case("feed_forward", {"activation": Activation.RELU, "max_num_tokens": 40}, dtype),
    ]
    if "bfloat16" in types:
        made.append(case("residual_norm", {**NORM, "quantized_type": Type.FLOAT8_E4M3}, dtype))
    return made


SOME = [
    LayerCase(operation="residual_norm", given=FULL_NORM),
    LayerCase(operation="gated_activation", given=GATED),
    LayerCase(operation="feed_forward", given=PLAIN_FFN),
]


def numbers(lines, word):
    """The numbers after a word at the beginning of lines, of each such line."""
    return [
        [int(number) for number in re.findall(r"-?\d+", line)]
        for line in lines
        if line.startswith(f"{word} ")
    ]


def sentence(lines):
    """The one error that was logged."""
    (line,) = [line for line in lines if line.startswith("log 1 ")]
    return line


class Session:
    """Scripts for the program, in a folder; what it says, a line each."""

    def __init__(self, program: Path, library: Path, folder: Path) -> None:
        self.program = program
        self.library = library
        self.folder = folder

    def __call__(self, *lines: str, **environment: str) -> list[str]:
        """Runs a script in a process of its own, which is to end well."""
        ended = subprocess.run(
            [str(self.program)],
            input="\n".join(lines) + "\n",
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert ended.returncode == 0, (
            f"ended with {ended.returncode}: {ended.stdout[-2000:]}{ended.stderr[-2000:]}"
        )
        return ended.stdout.splitlines()

    @property
    def load(self) -> str:
        return f"load {self.library}"

    def layer(self, case: LayerCase, name: str = "layers.0") -> list[str]:
        """The layer's name, fields and inputs; files of random numbers beside them."""
        lines = [f"layer {case.record.plugin} {case.record.version} {name}"]
        kinds = {each.name: each.type for each in case.record.fields}
        lines += [f"field {kinds[name]} {name} {float(value)!r}" for name, value in case.fields.items()]
        for operand, tensor in zip(
            case.record.inputs_of(case.fields), self.tensors(case).values(), strict=True
        ):
            path = self.folder / operand.name
            path.write_bytes(_bytes_of(tensor))
            shapes = (
                "x".join(map(str, case.shape_of(operand.shape, num_tokens)))
                for num_tokens in (LEAST, BEST, MOST)
            )
            lines.append(f"input {TENSORRT_TYPES[case.dtype]} {' '.join(shapes)} {path}")
        return lines

    def tensors(self, case: LayerCase) -> dict[str, Any]:
        """The inputs by their names, of the most tokens; the same numbers every time."""
        import torch

        generator = torch.Generator().manual_seed(len(str(case)))
        made = {}
        for operand in case.record.inputs_of(case.fields):
            shape = case.shape_of(operand.shape, MOST)
            is_weight = operand.name.endswith("_weight")
            scale = shape[-1] ** -0.5 if is_weight else 1.0
            made[operand.name] = (torch.randn(shape, generator=generator) * scale).to(
                getattr(torch, case.dtype)
            )
        return made

    def outputs(self, case: LayerCase, num_tokens: int) -> list[Any]:
        """What the last run wrote."""
        import torch

        read = []
        operands = case.record.outputs_of(case.fields)
        for i, (operand, dtype) in enumerate(zip(operands, case.output_types(), strict=True)):
            data = bytearray((self.folder / f"output_{i}").read_bytes())
            shape = case.shape_of(operand.shape, num_tokens)
            # torch.frombuffer takes no empty buffer.
            flat = torch.frombuffer(data, dtype=getattr(torch, dtype)) if data else torch.empty(0)
            read.append(flat.reshape(shape))
        return read

    def check_outputs(self, case: LayerCase, num_tokens: int) -> None:
        """The outputs of the last run against the formulas in float64."""
        import kernel_formulas as formulas
        import torch

        outputs = self.outputs(case, num_tokens)
        wanted = _wanted(case, self.tensors(case), num_tokens, outputs[0])
        for got, value in zip(outputs, wanted, strict=True):
            tolerance = (
                formulas.QUANTIZED_TOLERANCE[got.dtype]
                if got.dtype in formulas.QUANTIZED_TOLERANCE
                else 4 * formulas.TOLERANCE[getattr(torch, case.dtype)]
            )
            if got.dtype in formulas.QUANTIZED_TOLERANCE:
                # Rounded to steps: within one everywhere.
                off = (got.double() - value).abs() / value.abs().clamp(min=1.0)
                assert off.max() <= (0.51 if got.dtype == torch.int8 else 2**-3), f"{case}: {off.max()} off"
            else:
                error = formulas.relative_error(got, value)
                assert error <= tolerance, f"{case} is {error:.2e} off; {tolerance:.2e} is allowed"


def _wanted(case: LayerCase, inputs: dict[str, Any], num_tokens: int, first: Any) -> list[Any]:
    """The outputs of the first tokens, in float64. first: the first of those that the layer wrote."""
    import kernel_formulas as formulas
    import torch

    operands = {each.name: each for each in case.record.inputs}
    given = {
        name: value[:num_tokens] if operands[name].shape[0] == "..." else value
        for name, value in inputs.items()
    }
    fields = case.fields
    settings = {"clamp": fields.get("clamp", 0.0), "gate_offset": fields.get("gate_offset", 0.0)}
    if case.operation != "residual_norm":
        settings["activation"] = Activation(fields["activation"]).name.lower()
    if case.operation == "gated_activation":
        return [formulas.gated(given["fc"], given.get("gate"), **settings)]
    if case.operation == "feed_forward":
        return [formulas.feed_forward(given, **settings)]
    total = formulas.added(given["x"], given.get("residual"), given.get("bias"))
    wanted = [total] if fields["has_sum"] else []
    if fields["norm"] == Norm.NO_NORM:
        return wanted
    # The norm is of the sum as it was stored, an ulp off here and there.
    total = first.double() if fields["has_sum"] else total
    normed = formulas.normed(
        total,
        given["x"].dtype,
        given.get("weight"),
        given.get("norm_bias"),
        norm=Norm(fields["norm"]).name.lower(),
        eps=fields["eps"],
        weight_offset=fields["weight_offset"],
        rounding=Rounding(fields["rounding"]).name.lower(),
    )
    if not fields["quantized_type"]:
        return [*wanted, normed]
    dtype = getattr(torch, _OUTPUT_TYPES[Type(fields["quantized_type"])])
    scales = formulas.scales_of(normed, dtype)
    return [*wanted, normed / scales, scales]


def _bytes_of(tensor: Any) -> bytes:
    import torch

    return bytes(tensor.contiguous().view(torch.uint8).numpy().tobytes())
