"""One network a rank, all of them run at once in this process: modules with weights dealt out by hand, and models."""

import numpy as np
from sublayer_formulas import DTYPES, engine_of_module, set_random

import trtllm_ext as tx
from trtllm_ext.checkpoint.sharding import split_weights, with_ranks
from trtllm_ext.models import model_from_config
from trtllm_ext.parallel import run_ranks

# Which axis of a sublayer's weight is split, by the end of its name; None for three blocks that are split each on its
# own. A weight that is not here is whole on every rank.
AXES = {
    "fc.weight": -2,
    "fc.bias": -1,
    "gate.weight": -2,
    "gate.bias": -1,
    "proj.weight": -1,
    "qkv.weight": None,
    "qkv.bias": None,
    "dense.weight": -1,
    "inner_layernorm.weight": 0,
    "inner_layernorm.bias": 0,
}


def part_of(weight, axis, size, rank):
    """A rank's part of a weight; axis None: of each third of its rows."""
    if axis is None:
        return np.concatenate([np.split(third, size)[rank] for third in np.split(weight, 3)])
    return np.split(weight, size, axis)[rank]


def parts_of(weights, size, rank, axes=AXES):
    """A rank's weights of whole ones."""
    ends = {name: ".".join(name.split(".")[-2:]) for name in weights}
    return {
        name: part_of(weight, axes[ends[name]], size, rank) if ends[name] in axes else weight
        for name, weight in weights.items()
    }


def whole_weights(make, dtype, seed=0):
    """Random weights of make(tp_group=None, tp_size=1), as arrays of `dtype`; and as float64, for a formula."""
    layer = make(tp_group=None, tp_size=1)
    wide = set_random(layer, dtype, seed)
    return {name: parameter.raw_value for name, parameter in layer.named_parameters()}, wide


def module_engines(make, weights, inputs, size, dtype="float32", axes=AXES):
    """The engines of all ranks of a module, each with its own weights.

    make: called with tp_group and tp_size. weights: whole ones by name. inputs: as for `run_module`, or one a rank.
    """
    engines = []
    for rank in range(size):
        module = make(tp_group=list(range(size)), tp_size=size)
        own = parts_of(weights, size, rank, axes)
        for name, parameter in module.named_parameters():
            parameter.value = np.ascontiguousarray(own.pop(name))
        assert not own, f"weights that no rank has: {', '.join(own)}"
        engines.append(engine_of_module(module, _of_rank(inputs, rank), dtype))
    return engines


def run_module_on_ranks(make, weights, inputs, size, dtype="float32", axes=AXES):
    """`run_module` on several ranks: y by rank. Arguments as for `module_engines`."""
    engines = module_engines(make, weights, inputs, size, dtype, axes)
    return [outputs["y"] for outputs in run_engines(engines, inputs)]


def run_engines(engines, inputs):
    """All ranks' outputs of serialized engines, a thread and a session each. inputs: for all, or one a rank."""

    def run(communicator):
        engine = engines[communicator.rank]
        with tx.Session.from_serialized_engine(engine, communicator=communicator) as session:
            return session.run(_of_rank(inputs, communicator.rank), check=isinstance(inputs, dict))

    return run_ranks(len(engines), run)


def run_model_on_ranks(config, weights, inputs, size, *, sequence_parallel=False, **limits):
    """All ranks' outputs of a model. config: of one rank. weights: whole ones under the checkpoint's names."""
    engines = [
        model_engine(config, weights, size, rank, sequence_parallel=sequence_parallel, **limits)
        for rank in range(size)
    ]
    return run_engines(engines, inputs)


def model_engine(config, weights, size, rank, *, sequence_parallel=False, **limits):
    """The engine of one of `size` ranks. Arguments as for `run_model_on_ranks`."""
    own = with_ranks(config, size, rank)
    model = model_from_config(own, sequence_parallel=sequence_parallel)
    model.load({name: np.ascontiguousarray(w) for name, w in split_weights(weights, own, rank).items()})
    return tx.build(model, tx.BuildConfig(**limits)).engine


def same_on_every_rank(results):
    """The result of all ranks, which have the same bits."""
    for rank, each in enumerate(results):
        assert each.dtype == results[0].dtype
        assert each.tobytes() == results[0].tobytes(), f"rank {rank} has other bits than rank 0"
    return results[0]


def random_tokens(dtype, *shape, seed=9):
    return np.random.default_rng(seed).normal(size=shape).astype(DTYPES[dtype])


def _of_rank(inputs, rank):
    return inputs if isinstance(inputs, dict) else inputs[rank]
