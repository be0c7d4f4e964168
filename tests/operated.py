"""Engines with surgery, random changes of all that a run may change, and what then comes out, in float64 numpy."""

from dataclasses import replace

import numpy as np
from sublayer_formulas import DTYPES, set_random

import trtllm_ext as tx
from trtllm_ext.models import model_from_config
from trtllm_ext.verify.formulas import evaluate, points_of


def model_of(config, seed=0):
    model = model_from_config(config)
    set_random(model, config.dtype, seed)
    return model


def engine_of(model, patterns=("*",), **settings):
    return tx.build(model, tx.BuildConfig(surgery=list(patterns), **settings))


def session_of(engine):
    """An engine in memory, whose session knows which inputs may be left out."""
    return tx.Session.from_serialized_engine(engine.engine, input_defaults=engine.config.input_defaults)


def run(engine, inputs):
    with session_of(engine) as session:
        return {name: np.array(value) for name, value in session.run(inputs).items()}


def random_changes(engine, inputs, seed=5):
    """For every input of surgery random numbers of its type, in the shape that it has beside `inputs`."""
    rng = np.random.default_rng(seed)
    shapes = {name: value.shape for name, value in inputs.items()}
    dtypes = {each.name: DTYPES.get(each.dtype) for each in engine.inputs}
    return {
        name: rng.normal(size=default.shape_beside(shapes)).astype(dtypes[name])
        for name, default in engine.config.input_defaults.items()
    }


def reference(config, weights, inputs, changes):
    """Every point of the model in float64: of those that are changed scale * value + add, and what follows from it."""

    def operated(point):
        scale, add = (changes.get(f"{point.name}.{what}") for what in ("scale", "add"))
        if scale is None and add is None:
            return point
        factor = 1.0 if scale is None else np.float64(scale[0])
        more = 0.0 if add is None else add.astype(np.float64)
        return replace(point, formula=lambda *given: factor * point.formula(*given) + more)

    return evaluate([operated(point) for point in points_of(config, weights)], inputs).values
