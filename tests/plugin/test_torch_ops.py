"""The PyTorch operators on the CPU: numbers against float64, under torch.compile, and what they refuse."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the operators are PyTorch's: pip install torch")

import kernel_formulas as formulas  # noqa: E402

from trtllm_ext.errors import ConfigError, InputError, TrtllmExtError  # noqa: E402
from trtllm_ext.plugin import torch_ops  # noqa: E402

BUDGET_S = 12

OPERATORS = torch.ops.trtllm_ext
TYPES = (torch.float32, torch.float16, torch.bfloat16)


def random(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(dtype)


def norm_tensors(dtype, shape=(3, 2, 24)):
    hidden = shape[-1]
    rows = {"x": random(*shape, dtype=dtype), "residual": random(*shape, dtype=dtype, seed=1)}
    return rows | {
        name: random(hidden, dtype=dtype, seed=n) for n, name in enumerate(("bias", "weight", "norm_bias"))
    }


def feed_forward_tensors(dtype=torch.float32, shape=(5, 16), wide=24):
    hidden = shape[-1]
    shapes = {
        "x": shape,
        "fc_weight": (wide, hidden),
        "proj_weight": (hidden, wide),
        "gate_weight": (wide, hidden),
    }
    shapes |= {"fc_bias": (wide,), "gate_bias": (wide,), "proj_bias": (hidden,), "residual": shape}
    return {name: random(*each, dtype=dtype, seed=n) / 4 for n, (name, each) in enumerate(shapes.items())}


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    "settings",
    [
        {"norm": "layer_norm", "eps": 1e-3},
        {"norm": "rms_norm", "eps": 1e-3, "weight_offset": 1.0},
        {"norm": "rms_norm", "rounding": "before_weight"},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_residual_norm_is_its_formula(dtype, settings):
    tensors = norm_tensors(dtype)
    total, normed = OPERATORS.residual_norm(*tensors.values(), **settings)
    wanted = formulas.added(tensors["x"], tensors["residual"], tensors["bias"])
    assert formulas.relative_error(total, wanted) <= formulas.TOLERANCE[dtype] / 10
    value = formulas.normed(total.double(), dtype, tensors["weight"], tensors["norm_bias"], **settings)
    assert formulas.relative_error(normed, value) <= formulas.TOLERANCE[dtype]


def test_nothing_added_gives_no_sum():
    x = random(4, 8)
    total, normed = torch_ops.residual_norm(x, norm="layer_norm")
    assert total.shape == (0,)
    assert formulas.relative_error(normed, formulas.normed(x.double(), x.dtype)) <= 2e-6


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_quantized_rows_have_a_scale_each(dtype):
    tensors = norm_tensors(torch.float32)
    tensors["x"][0, 0], tensors["residual"][0, 0], tensors["bias"][:], tensors["norm_bias"][:] = 0, 0, 0, 0
    total, quantized, scales = OPERATORS.residual_norm_quantized(
        *tensors.values(), norm="layer_norm", dtype=dtype
    )
    value = formulas.normed(total.double(), torch.float32, tensors["weight"], tensors["norm_bias"])
    assert formulas.relative_error(scales, formulas.scales_of(value, dtype)) <= 1e-6
    step = 0.5 if dtype == torch.int8 else 32 / 2
    assert ((quantized.double() * scales - value).abs() <= (step + 1e-3) * scales).all()
    assert not quantized[0, 0].double().any()
    assert not scales[0, 0].any()


@pytest.mark.parametrize("activation", formulas.ACTIVATIONS)
def test_gated_activation_is_its_formula(activation):
    fc, gate = random(6, 48).tensor_split(2, dim=1)
    biases = random(24, seed=1), random(24, seed=2)
    for settings in ({}, {"clamp": 0.7, "gate_offset": 1.0}):
        for given in ((fc, gate, *biases), (fc, None, biases[0])):
            got = OPERATORS.gated_activation(*given, activation=activation, **settings)
            wanted = formulas.gated(*given, activation=activation, **settings)
            assert formulas.relative_error(got, wanted) <= 2e-6


@pytest.mark.parametrize("dtype", TYPES)
def test_feed_forward_is_its_formula(dtype):
    tensors = feed_forward_tensors(dtype)
    for without in ((), ("gate_weight", "gate_bias"), ("fc_bias", "gate_bias", "proj_bias", "residual")):
        given = {name: None if name in without else value for name, value in tensors.items()}
        got = OPERATORS.feed_forward(*given.values(), activation="gelu_tanh")
        wanted = formulas.feed_forward(given, activation="gelu_tanh")
        assert formulas.relative_error(got, wanted) <= formulas.TOLERANCE[dtype]


CALLS = {
    "residual_norm": lambda: (tuple(norm_tensors(torch.float16).values()), {"norm": "rms_norm"}),
    "residual_norm_quantized": lambda: (
        tuple(norm_tensors(torch.float32).values()),
        {"norm": "rms_norm", "dtype": torch.int8},
    ),
    "gated_activation": lambda: (tuple(random(6, 48).tensor_split(2, dim=1)), {"activation": "gelu_erf"}),
    "feed_forward": lambda: (tuple(feed_forward_tensors().values()), {"activation": "silu", "tf32": True}),
}


@pytest.mark.parametrize("name", CALLS)
def test_pytorch_finds_nothing_wrong_with_the_operator(name):
    tensors, settings = CALLS[name]()
    torch.library.opcheck(getattr(OPERATORS, name).default, tensors, settings)


@pytest.mark.parametrize("name", CALLS)
def test_no_tokens_are_no_work(name):
    tensors, settings = CALLS[name]()
    tensors = [each[:0] if each.shape[:-1] == tensors[0].shape[:-1] else each for each in tensors]
    results = getattr(OPERATORS, name)(*tensors, **settings)
    results = results if isinstance(results, tuple) else (results,)
    assert all(each.shape[0] == 0 for each in results)


def block(x, stream, weights, gamma):
    """A sublayer as a user would write it."""
    stream, normed = OPERATORS.residual_norm(x, stream, weight=gamma, norm="rms_norm")
    fc, gate = (normed @ weights["gate_up"].T).chunk(2, dim=-1)
    inner = OPERATORS.gated_activation(fc, gate, activation="silu")
    return stream, OPERATORS.feed_forward(
        inner, weights["fc"], weights["proj"], residual=normed, activation="relu"
    )


def check_compiled(backend):
    x, stream, gamma = random(5, 16), random(5, 16, seed=1), random(16)
    weights = {"gate_up": random(32, 16), "fc": random(24, 16), "proj": random(16, 24)}
    compiled = torch.compile(block, fullgraph=True, dynamic=True, backend=backend)
    for num_tokens in (5, 3):
        given = (x[:num_tokens], stream[:num_tokens], weights, gamma)
        for got, wanted in zip(compiled(*given), block(*given), strict=True):
            torch.testing.assert_close(got, wanted)


def test_one_graph_under_compile():
    check_compiled("aot_eager")


@pytest.mark.long
def test_one_graph_under_the_default_compiler():
    check_compiled("inductor")


def test_gradients_are_refused():
    x = random(2, 8).requires_grad_()
    normed = torch_ops.residual_norm(x, norm="rms_norm")[1]
    with pytest.raises(TrtllmExtError, match=r"for inference .* torch\.inference_mode"):
        normed.sum().backward()


@pytest.mark.parametrize(
    ("name", "tensors", "settings", "error", "text"),
    [
        ("residual_norm", ((2, 8), (3, 8)), {}, InputError, r"residual is .*\(3, 8\).*expected .*\(2, 8\)"),
        ("residual_norm", ((2, 8),), {"norm": "rms"}, InputError, "rms_norm"),
        ("residual_norm", ((2, 8),), {"rounding": "never"}, InputError, "rounding='never'"),
        ("residual_norm", ((2, 8),), {"eps": 0.0}, InputError, "above 0"),
        (
            *("residual_norm", ((2, 8),), {"rounding": "before_weight", "weight_offset": 1.0}),
            *(InputError, "weight_offset is for"),
        ),
        ("residual_norm_quantized", ((2, 8),), {"dtype": torch.uint8}, InputError, "torch.int8"),
        ("gated_activation", ((2, 8), (2, 4)), {}, InputError, "gate is"),
        ("gated_activation", ((2, 8),), {"activation": "gelu"}, ConfigError, "gelu_erf"),
        ("gated_activation", ((2, 8), None, None, (8,)), {}, InputError, "no gate"),
        (
            "feed_forward",
            ((2, 8), (16, 8), (8, 15)),
            {},
            InputError,
            r"proj_weight is .*expected .*\(8, 16\)",
        ),
        ("feed_forward", ((2, 8), (16, 8), (8, 16)), {"activation": "swish"}, ConfigError, "silu"),
    ],
)
def test_refused(name, tensors, settings, error, text):
    given = [None if shape is None else random(*shape) for shape in tensors]
    settings = {"norm": "rms_norm"} | settings if "norm" in name else {"activation": "silu"} | settings
    with pytest.raises(error, match=text):
        getattr(torch_ops, name)(*given, **settings)


def test_tuning_on_the_cpu_checks_its_arguments_alone():
    assert torch_ops.tune_feed_forward(*feed_forward_tensors().values(), activation="silu") is None
    with pytest.raises(InputError, match="proj_weight is"):
        torch_ops.tune_feed_forward(random(2, 8), random(16, 8), random(8, 15), activation="silu")
    with pytest.raises(ConfigError, match="swish"):
        torch_ops.tune_feed_forward(random(2, 8), random(16, 8), random(8, 16), activation="swish")


@pytest.mark.parametrize("name", CALLS)
def test_an_operator_tells_what_it_does_and_takes(name):
    operator = getattr(torch_ops, name)
    told = dict(inspect.signature(operator).parameters)
    assert list(told) == [each.name for each in getattr(OPERATORS, name).default._schema.arguments]
    assert told["norm" if "norm" in name else "activation"].default is inspect.Parameter.empty
    assert operator.__doc__.startswith(("(sum, ", "act("))


def test_the_program_in_the_docs():
    """It compares itself with plain PyTorch, with Hugging Face's names."""
    text = (Path(__file__).parents[2] / "docs/plugins.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert "torch.testing.assert_close" in program
    exec(program, {})


def test_types_of_others_are_refused():
    with pytest.raises(InputError, match="float64"):
        torch_ops.residual_norm(random(2, 8).double(), norm="rms_norm")
    with pytest.raises(InputError, match=r"weight is torch\.float32"):
        torch_ops.residual_norm(random(2, 8, dtype=torch.float16), weight=random(8), norm="rms_norm")


def test_kernels_alone_import_no_torch():
    code = "import sys, trtllm_ext.plugin.feed_forward_plan; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
