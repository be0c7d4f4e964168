"""A transformers model's own layers, with attention's output given to them, against the converted stack's engine."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from norms_against_transformers import check_norms
from sampling import thinned

import trtllm_ext as tx
from trtllm_ext.checkpoint import convert
from trtllm_ext.models import model_from_checkpoint

TOKENS = 7
# Largest error as a share of the largest value of the stream. bfloat16: four roundings of half a unit in 2^-8.
LIMIT = {"float32": 1e-5, "bfloat16": 1.6e-2}


class Given(torch.nn.Module):
    """Attention's stand-in: gives the same tensor whatever it is asked."""

    def __init__(self, output, wrap):
        super().__init__()
        self.output, self.wrap = output, wrap

    def forward(self, *arguments, **options):
        return self.wrap(self.output)


@dataclass(kw_only=True)
class Case:
    """One model. name: in test ids. config, model: transformers' config object and the class that it is given to.

    layers: the list of layers in the model. attention: where a layer holds its attention, 'layer.0.attention'.
    wrap: what attention returns, from its output. contribution: what the layer adds to the stream for that output.
    call: runs a layer on (1, tokens, hidden).
    options: for convert(). changed_config: fields to write over in the saved config.json. whole_config: what stands
    there instead, as models on the hub have it, in its `architectures` and `torch_dtype` too. prepare: last changes to
    the model before it is saved. saving: options of save_pretrained. seed: of weights and inputs.
    attention_input: False runs the layers with an attention that gives zeros.
    """

    name: str
    config: Any
    model: type
    layers: Callable[[Any], Any] = lambda model: model.model.layers
    attention: str = "self_attn"
    wrap: Callable[[Any], Any] = lambda output: (output, None)
    contribution: Callable[[Any, Any], Any] = lambda layer, output: output
    call: Callable[[Any, Any], Any] = lambda layer, x: layer(x)
    options: dict[str, Any] = field(default_factory=dict)
    changed_config: dict[str, Any] = field(default_factory=dict)
    whole_config: dict[str, Any] | None = None
    prepare: Callable[[Any], None] = lambda model: None
    saving: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    attention_input: bool = True
    expect: dict[str, Any] = field(default_factory=dict)


def cases(*all_cases, every=1):
    """every: one of how many is for the default tests."""
    parameters = [pytest.param(case, id=case.name) for case in all_cases]
    return pytest.mark.parametrize("case", thinned(parameters, every=every))


def cases_in_types(*all_cases):
    """Each in float32, whose limits tell the most; by default one of four in bfloat16 too."""
    of_types = {
        dtype: [pytest.param(case, dtype, id=f"{case.name}-{dtype}") for case in all_cases]
        for dtype in ("float32", "bfloat16")
    }
    return pytest.mark.parametrize(("case", "dtype"), of_types["float32"] + thinned(of_types["bfloat16"]))


def saved_model(case, folder, dtype):
    """A model with random weights, biases and norms too, in float32 with values that `dtype` holds; saved in dtype."""
    import json

    torch.manual_seed(case.seed)
    model = case.model(case.config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = 1 / parameter.shape[-1] ** 0.5 if parameter.ndim > 1 else 0.3
            offset = 1.0 if parameter.ndim == 1 and "bias" not in name else 0.0
            parameter.copy_(torch.randn_like(parameter) * spread + offset)
    case.prepare(model)
    model = model.to(getattr(torch, dtype))
    model.save_pretrained(folder, **case.saving)
    path = folder / "config.json"
    saved = case.whole_config or json.loads(path.read_text())
    path.write_text(json.dumps({**saved, **case.changed_config}))
    return model.float()


def reference(case, model, x, given):
    """The layers one after the other, in float32; returns (output, what attention added in each)."""
    added = []
    with torch.no_grad():
        x = torch.from_numpy(x)[None]
        for layer, output in zip(case.layers(model), torch.from_numpy(given), strict=True):
            parent, _, name = case.attention.rpartition(".")
            setattr(layer.get_submodule(parent), name, Given(output[None], case.wrap))
            added.append(case.contribution(layer, output).numpy())
            x = case.call(layer, x)
            x = x[0] if isinstance(x, tuple) else x
    return x[0].numpy(), np.stack(added)


def check(case, tmp_path, dtype):
    """Convert, build, run; compare. Returns the checkpoint's config."""
    model = saved_model(case, tmp_path / "model", dtype)
    report = convert(
        tmp_path / "model", tmp_path / "checkpoint", attention_input=case.attention_input, **case.options
    )
    config = report.config
    assert config.dtype == dtype
    for path, value in case.expect.items():
        found = config.contract.feed_forward
        for part in path.split("."):
            found = getattr(found, part)
        assert found == value, f"{path} is {found}"

    rng = np.random.default_rng(case.seed)
    numpy_dtype = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}[dtype]
    shape = (TOKENS, config.hidden_size)

    def rounded(*size):
        return rng.normal(size=size).astype(numpy_dtype).astype(np.float32)

    x, given = rounded(*shape), rounded(len(case.layers(model)), *shape) * case.attention_input
    inputs = [(x, given)]
    if dtype == "float32":
        check_norms(case.layers(model)[0], tmp_path / "checkpoint")
        # Small enough for the norms' eps to matter. Attention's may pass a norm of its own, that divides by sqrt(eps).
        eps = config.contract.feed_forward.residual.norm.eps
        inputs.append((x * np.float32(eps**0.5), given * np.float32(eps)))
    engine = tx.build(
        model_from_checkpoint(tmp_path / "checkpoint"), tx.BuildConfig(max_num_tokens=16)
    ).engine
    with tx.Session.from_serialized_engine(engine) as session:
        for each in inputs:
            _compare(case, model, session, each, numpy_dtype)
    return config


def _compare(case, model, session, inputs, dtype):
    """The model's layers and the engine, on (stream, what attention gives)."""
    x, given = inputs
    expected, added = reference(case, model, x, given)
    fed = {"hidden_states": x.astype(dtype)}
    if case.attention_input:
        fed["attention_output"] = added.astype(dtype)
    got = session.run(fed)["hidden_states_out"].astype(np.float32)
    error = np.abs(got - expected).max() / np.abs(expected).max()
    assert error <= LIMIT[np.dtype(dtype).name], f"{case.name} {np.dtype(dtype)}: relative error {error:.2g}"
    assert np.abs(expected - x).max() > 0.1 * np.abs(x).max(), "the layers leave their input as it is"
