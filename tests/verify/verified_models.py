"""Small checkpoints, engines of them, and faults to plant."""

import numpy as np

import trtllm_ext as tx
from trtllm_ext.checkpoint import Checkpoint, load_checkpoint
from trtllm_ext.models import model_from_checkpoint, model_from_config, sublayer_stack_config
from trtllm_ext.models.random import write_random_checkpoint

LAYERS = 3
ALL = ("*",)


def stack(path, dtype="float32", **form):
    """A checkpoint of three layers in a directory, and in memory."""
    fields = {"hidden_size": 16, "ffn_hidden_size": 32, "num_hidden_layers": LAYERS, "hidden_act": "gelu_erf"}
    write_random_checkpoint(path, sublayer_stack_config(**{**fields, **form}, dtype=dtype), seed=2)
    return load_checkpoint(path)


def engine_of(source, taps=(), **limits):
    """An engine of a directory's checkpoint, or of one in memory."""
    if isinstance(source, Checkpoint):
        model = model_from_config(source.config)
        model.load(source.weights)
    else:
        model = model_from_checkpoint(source)
    sizes = {} if model.config.architecture == "Encoder" else {"max_num_tokens": 16}
    return tx.build(model, tx.BuildConfig(**(sizes | limits), taps=taps))


def with_weight(checkpoint, name, value, place=(3, 4)):
    """The same checkpoint, one element of one weight changed."""
    weights = dict(checkpoint.weights)
    changed = np.array(weights[name])
    changed[place] = value
    return Checkpoint(checkpoint.config, {**weights, name: changed})
