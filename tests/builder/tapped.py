"""Models with taps, and engines of them."""

from collections import OrderedDict

import numpy as np
from sublayer_formulas import DTYPES, set_random

import trtllm_ext as tx
from trtllm_ext.graph import functional
from trtllm_ext.models import model_from_config, sublayer_stack_config

HIDDEN, LAYERS, TOKENS = 32, 2, 7
# Longer than what a product sums at a time, so that the order of adding shows.
WIDE = 400
PLAIN = {}
GATED = {"gated": True, "hidden_act": "silu", "norm": "rms_norm", "bias": False}
POINTS = ("before", "contribution", "after")


def stack(form=PLAIN, **changes):
    fields = {"hidden_size": HIDDEN, "ffn_hidden_size": 80, "num_hidden_layers": LAYERS, **form, **changes}
    return sublayer_stack_config(**fields)


def model_of(config, seed=0):
    model = model_from_config(config)
    set_random(model, config.dtype, seed)
    return model


def tokens(dtype="float32"):
    x = np.random.default_rng(1).normal(size=(TOKENS, HIDDEN))
    return {"hidden_states": x.astype(DTYPES[dtype])}


def sentences():
    ids = np.random.default_rng(2).integers(0, 50, (2, 5)).astype(np.int32)
    mask = np.array([[1] * 5, [1] * 3 + [0] * 2], np.int32)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def run(model, inputs, **settings):
    """What an engine built with these settings computes, by output."""
    engine = tx.build(model, tx.BuildConfig(**settings)).engine
    with tx.Session.from_serialized_engine(engine) as session:
        return {name: value.copy() for name, value in session.run(inputs).items()}


def names(layers=LAYERS, sublayers=("mlp",)):
    return [
        f"transformer.layers.{i}.{which}.{point}"
        for i in range(layers)
        for which in sublayers
        for point in POINTS
    ]


class Parts(tx.Module):
    """x + gelu((x W1 + b) / norm) W2 from single operations, each one noted: fusions find all that they look for."""

    def __init__(self):
        super().__init__()
        rng = np.random.default_rng(0)
        self.w1 = (rng.normal(size=(WIDE, 600)) / 17).astype(np.float32)
        self.w2 = (rng.normal(size=(600, WIDE)) / 24).astype(np.float32)
        self.b = rng.normal(size=(1, 600)).astype(np.float32)

    def note(self, name, value):
        self.register_network_output(name, value)
        return value

    def forward(self, x):
        weights = [functional.constant(each) for each in (self.w1, self.w2, self.b)]
        h = self.note("biased", self.note("product", functional.matmul(x, weights[0])) + weights[2])
        cubic = self.note("cubic", h + 0.044715 * self.note("cube", h * h * h))
        tanh = self.note("tanh", functional.tanh(self.note("scaled", cubic * 0.7978845608)))
        gelu = self.note("gelu", 0.5 * self.note("factor", (tanh + 1.0) * h))
        centred = self.note("centred", gelu - self.note("mean", functional.mean(gelu, -1, keepdim=True)))
        variance = self.note("variance", functional.mean(centred * centred, -1, keepdim=True))
        normed = self.note("normed", centred / self.note("deviation", functional.sqrt(variance + 1e-5)))
        affine = self.note("affine", self.note("gained", normed * weights[2]) + weights[2])
        return self.note("after", x + self.note("contribution", functional.matmul(affine, weights[1])))


class OfParts(tx.Module):
    """A model as `build` takes it, of parts and an input of whatever shape."""

    def __init__(self, rows=-1, parts=True):
        super().__init__()
        self.config = stack(hidden_size=WIDE)
        self.rows = rows
        if parts:
            self.parts = Parts()

    def prepare_inputs(self, max_num_tokens):
        rows = [[1, 8, max_num_tokens]] if self.rows == -1 else [self.rows]
        ranges = OrderedDict(rows=rows, hidden=[WIDE])
        return {"x": tx.Tensor("x", "float32", [self.rows, WIDE], ranges)}

    def forward(self, x):
        (self.parts(x) if hasattr(self, "parts") else x + x).mark_output("y")
