"""What the kernels are tried on: small on the CPU through the tests' stand-in for CUDA, whole on a GPU.

No torch here, so that pytest can list the cases without it.
"""

from dataclasses import dataclass, replace

TOKENS = (0, *range(1, 10), *(15, 16, 17), *(31, 32, 33), *(63, 64, 65), *(127, 128, 129), 255, 257, 2047)
TYPES = ("float32", "float16", "bfloat16")
ACTIVATIONS = (
    *("identity", "relu", "gelu_erf", "gelu_tanh", "quick_gelu"),
    *("silu", "squared_relu", "sigmoid", "tanh"),
)
# packed: rows without gaps at aligned addresses. apart: with gaps of a multiple of 16 bytes. odd: gaps of one element.
# shifted: the first row an element past an aligned address. in_place: outputs in inputs' memory.
LAYOUTS = ("packed", "apart", "odd", "shifted", "in_place")


@dataclass(frozen=True, kw_only=True)
class NormCase:
    """One call of residual_norm. parts: which of residual, bias, weight, norm_bias are given."""

    num_tokens: int
    hidden: int
    dtype: str
    norm: str = "rms_norm"
    parts: tuple[str, ...] = ("residual", "weight")
    layout: str = "packed"
    quantized: str = ""
    rounding: str = "after_weight"
    weight_offset: float = 0.0
    eps: float = 1e-5
    outputs: tuple[str, ...] = ("sum", "normed")

    def __str__(self) -> str:
        told = [f"{self.num_tokens}x{self.hidden}", self.dtype, self.norm, self.layout, *self.parts]
        told += [self.quantized] * bool(self.quantized) + ["before_weight"] * (
            self.rounding == "before_weight"
        )
        told += ["offset"] * bool(self.weight_offset) + ["+".join(self.outputs)] * (len(self.outputs) < 2)
        return "-".join(told)


@dataclass(frozen=True, kw_only=True)
class ActivationCase:
    """One call of gated_activation. layout: of LAYOUTS, or 'halves' for fc and gate side by side in one buffer."""

    num_tokens: int
    width: int
    dtype: str
    activation: str = "silu"
    parts: tuple[str, ...] = ("gate",)
    layout: str = "packed"
    clamp: float = 0.0
    gate_offset: float = 0.0

    def __str__(self) -> str:
        told = [f"{self.num_tokens}x{self.width}", self.dtype, self.activation, self.layout, *self.parts]
        return "-".join(told + ["clamp"] * bool(self.clamp))


@dataclass(frozen=True, kw_only=True)
class FeedForwardCase:
    """A plan and a run of it. parts: of gate_weight, fc_bias, gate_bias, proj_bias, residual. tuned: timed before."""

    num_tokens: int
    hidden: int
    ffn: int
    dtype: str
    activation: str = "relu"
    parts: tuple[str, ...] = ("fc_bias", "proj_bias", "residual")
    layout: str = "packed"
    clamp: float = 0.0
    gate_offset: float = 0.0
    tf32: bool = False
    tuned: bool = False

    def __str__(self) -> str:
        told = [
            f"{self.num_tokens}x{self.hidden}x{self.ffn}",
            self.dtype,
            self.activation,
            self.layout,
            *self.parts,
        ]
        told += ["clamp"] * bool(self.clamp) + ["tf32"] * self.tf32 + ["tuned"] * self.tuned
        return "-".join(told)


ALL = ("residual", "bias", "weight", "norm_bias")
GATED = ("gate_weight", "residual")
EVERYTHING = ("gate_weight", "fc_bias", "gate_bias", "proj_bias", "residual")


def norm_cases(tokens, widths, hidden, types=TYPES):
    """All token counts at one width; all widths, layouts and forms at few tokens."""
    base = NormCase(num_tokens=5, hidden=hidden, dtype=types[-1])
    yield from (replace(base, num_tokens=n, dtype=dtype) for dtype in types for n in tokens)
    yield from (
        replace(base, hidden=wide, dtype=dtype, norm="layer_norm", parts=ALL)
        for dtype in types
        for wide in widths
    )
    for dtype in types:
        each = replace(base, dtype=dtype)
        yield from (replace(each, layout=layout, parts=ALL) for layout in LAYOUTS[1:])
        yield from (replace(each, hidden=hidden - 1, layout=layout) for layout in LAYOUTS)
        yield replace(each, norm="no_norm", outputs=("sum",), parts=("residual", "bias"))
        yield replace(each, outputs=("normed",))
        yield replace(each, parts=("weight",), outputs=("normed",))
        yield replace(each, parts=())
        yield replace(each, weight_offset=1.0)
        yield replace(each, rounding="before_weight")
        yield replace(each, norm="layer_norm", parts=ALL, eps=1e-12)
        for quantized in ("int8", "float8_e4m3fn"):
            yield replace(each, quantized=quantized, parts=ALL)
            yield replace(
                each, quantized=quantized, parts=ALL, layout="shifted", outputs=("sum",), hidden=hidden - 3
            )


def activation_cases(tokens, widths, width, types=TYPES):
    """All token counts at one width; all widths; every activation with a gate, with clamp and without one."""
    base = ActivationCase(num_tokens=5, width=width, dtype=types[-1])
    yield from (replace(base, num_tokens=n, dtype=dtype) for dtype in types for n in tokens)
    yield from (replace(base, width=wide, dtype=dtype, layout="halves") for dtype in types for wide in widths)
    biases = ("gate", "fc_bias", "gate_bias")
    for dtype in types:
        each = replace(base, dtype=dtype)
        yield from (replace(each, layout=layout, parts=biases) for layout in (*LAYOUTS[1:], "halves"))
        for activation in ACTIVATIONS:
            yield replace(each, activation=activation, width=width - 1, parts=("fc_bias",), layout="odd")
            yield replace(each, activation=activation, parts=biases, clamp=0.75, gate_offset=1.0)


def feed_forward_cases(tokens, sizes, hidden, ffn, types=TYPES):
    """All token counts of plain and gated forms at one size; other sizes, among them odd ones; every activation."""
    base = FeedForwardCase(num_tokens=5, hidden=hidden, ffn=ffn, dtype=types[-1])
    gated = replace(base, activation="silu", parts=GATED)
    yield from (replace(each, num_tokens=n) for each in (base, gated) for n in tokens)
    for dtype in types:
        yield from (replace(base, hidden=h, ffn=f, dtype=dtype, num_tokens=3) for h, f in sizes)
        yield from (replace(gated, hidden=h, ffn=f, dtype=dtype, parts=EVERYTHING) for h, f in sizes)
        yield from (replace(base, dtype=dtype, layout=layout) for layout in LAYOUTS[1:])
        yield replace(base, dtype=dtype, parts=())
        yield replace(
            gated, dtype=dtype, activation="quick_gelu", parts=EVERYTHING, clamp=0.75, gate_offset=1.0
        )
        yield replace(gated, dtype=dtype, tuned=True)
        yield replace(base, dtype=dtype, tuned=True, activation="gelu_tanh")
    yield replace(base, dtype="float32", tf32=True)
    yield from (replace(base, activation=name, num_tokens=9) for name in ACTIVATIONS)
    yield from (replace(gated, activation=name, num_tokens=9) for name in ACTIVATIONS)


def distinct(cases):
    """As a list for pytest, each once."""
    return list(dict.fromkeys(cases))


# A few of each: an emulated thread costs thousands of times a real one. Tuning needs cublasLt.
SMALL = {
    "residual_norm": distinct(norm_cases((0, 1, 3), (1, 7, 64), 40)),
    "gated_activation": distinct(activation_cases((0, 1, 3), (1, 7, 64), 24)),
    "feed_forward": [
        each for each in distinct(feed_forward_cases((0, 1, 9), ((16, 24), (7, 5)), 16, 32)) if not each.tuned
    ],
}
LARGE = {
    "residual_norm": distinct(
        norm_cases(TOKENS, (1, 2, 7, 8, 63, 768, 1000, 1025, 5120, 8191, 16384, 40000), 4096)
    ),
    "gated_activation": distinct(activation_cases(TOKENS, (1, 2, 7, 8, 63, 1000, 1001, 14336, 40000), 4096)),
    "feed_forward": distinct(
        feed_forward_cases(TOKENS, ((64, 256), (768, 3072), (1024, 1001), (33, 65), (4096, 14336)), 512, 2048)
    ),
}
# For compute-sanitizer, under which a kernel takes a hundred times as long: every path once.
_TYPED = [replace(NormCase(num_tokens=3, hidden=4096, dtype="float32"), dtype=dtype) for dtype in TYPES]
SANITIZED = {
    "residual_norm": [
        *_TYPED,
        NormCase(num_tokens=33, hidden=1001, dtype="bfloat16", norm="layer_norm", parts=ALL, layout="odd"),
        NormCase(num_tokens=5, hidden=4096, dtype="float16", quantized="int8", layout="shifted"),
        NormCase(
            num_tokens=5, hidden=64, dtype="bfloat16", quantized="float8_e4m3fn", rounding="before_weight"
        ),
        NormCase(
            num_tokens=2, hidden=40000, dtype="float32", norm="layer_norm", parts=ALL, layout="in_place"
        ),
    ],
    "gated_activation": [
        ActivationCase(num_tokens=33, width=1001, dtype="bfloat16", layout="odd", parts=("gate", "fc_bias")),
        ActivationCase(num_tokens=17, width=1024, dtype="float16", layout="halves", clamp=0.75),
        ActivationCase(
            num_tokens=3, width=40, dtype="float32", activation="gelu_erf", parts=(), layout="shifted"
        ),
    ],
    "feed_forward": [
        FeedForwardCase(num_tokens=17, hidden=64, ffn=256, dtype="bfloat16", activation="silu", parts=GATED),
        FeedForwardCase(num_tokens=5, hidden=33, ffn=65, dtype="float32", parts=EVERYTHING, layout="odd"),
        FeedForwardCase(
            num_tokens=9, hidden=64, ffn=128, dtype="float16", layout="shifted", activation="gelu_tanh"
        ),
    ],
}
