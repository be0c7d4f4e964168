"""What the kernels are to compute, in float64 on whatever device the tensors are, rounded where the interface says so.

The header's descriptions written down once more; no code of trtllm_ext.
"""

import math

import torch

# |got - wanted| / |wanted|, both as vectors. One rounding of random numbers to the type is 0.29 of its epsilon, where
# the arithmetic in float32 turns a value's rounding over, and where the stream is rounded before the norm, a bit more.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 5e-4, torch.bfloat16: 4e-3}
QUANTIZED_TOLERANCE = {torch.int8: 2e-3, torch.float8_e4m3fn: 4e-3}

ACTIVATIONS = {
    "identity": lambda x: x,
    "relu": lambda x: x * (x > 0),
    "gelu_erf": lambda x: x / 2 * (1 + torch.erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "quick_gelu": lambda x: x / (1 + torch.exp(-1.702 * x)),
    "silu": lambda x: x / (1 + torch.exp(-x)),
    "squared_relu": lambda x: (x * (x > 0)) ** 2,
    "sigmoid": lambda x: 1 / (1 + torch.exp(-x)),
    "tanh": torch.tanh,
}


def relative_error(got, wanted) -> float:
    """|got - wanted| / |wanted| in float64, NaN where got has one; the plain norm where `wanted` is zero or nothing."""
    difference = torch.linalg.vector_norm(got.double() - wanted.double())
    length = torch.linalg.vector_norm(wanted.double())
    return float(difference / length if length > 0 else difference)


def rounded(x, dtype):
    """x, float64, as it is in `dtype`: once through float32, as the kernels' arithmetic is."""
    return x.float().to(dtype).double()


def wide(x):
    """float64; None for None."""
    return None if x is None else x.double()


def added(x, residual=None, bias=None):
    """x + bias + residual, float64, as it is stored in x's type."""
    total = x.double()
    for other in (bias, residual):
        total = total if other is None else total + other.double()
    return rounded(total, x.dtype)


def normed(
    total, dtype, weight=None, norm_bias=None, norm="layer_norm", eps=1e-5, weight_offset=0.0, **rounding
):
    """The norm of the stored sum, float64, not yet rounded to `dtype`."""
    if norm == "layer_norm":
        total = total - total.mean(-1, keepdim=True)
    value = total / torch.sqrt((total * total).mean(-1, keepdim=True) + eps)
    if rounding.get("rounding") == "before_weight":
        value = rounded(value, dtype)
    value = value * ((1.0 if weight is None else weight.double()) + weight_offset)
    return value if norm_bias is None else value + norm_bias.double()


def scales_of(value, dtype):
    """One scale a row, (..., 1): the largest magnitude over the type's largest value."""
    return value.abs().amax(-1, keepdim=True) / {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}[dtype]


def gated(fc, gate=None, fc_bias=None, gate_bias=None, activation="silu", clamp=0.0, gate_offset=0.0):
    """act(fc + fc_bias) [* (gate + gate_bias + gate_offset)], with the limits of a clamp above 0; float64."""
    limit = clamp if clamp > 0 else math.inf
    fc = fc.double() if fc_bias is None else fc.double() + fc_bias.double()
    inner = ACTIVATIONS[activation](torch.minimum(fc, torch.full_like(fc, limit)))
    if gate is None:
        return inner
    gate = gate.double() if gate_bias is None else gate.double() + gate_bias.double()
    return inner * (gate.clamp(-limit, limit) + gate_offset)


def feed_forward(tensors, by_cublaslt=False, **settings):
    """y, float64, of tensors by the names of the C interface, with inner activations rounded to x's type.

    by_cublaslt: products that no epilogue finishes are rounded, too.
    """
    x = tensors["x"].double()
    epilogue = settings.get("activation") in ("identity", "relu", "gelu_tanh") and not settings.get("clamp")
    fc = x @ tensors["fc_weight"].double().T
    gate = x @ tensors["gate_weight"].double().T if tensors.get("gate_weight") is not None else None
    if by_cublaslt and not (epilogue and gate is None):
        fc, gate = (None if each is None else rounded(each, tensors["x"].dtype) for each in (fc, gate))
    inner = gated(fc, gate, tensors.get("fc_bias"), tensors.get("gate_bias"), **settings)
    y = rounded(inner, tensors["x"].dtype) @ tensors["proj_weight"].double().T
    for name in ("proj_bias", "residual"):
        y = y if tensors.get(name) is None else y + tensors[name].double()
    return y
