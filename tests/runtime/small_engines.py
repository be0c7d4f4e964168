"""Networks of a few layers, built."""

from collections import OrderedDict

import trtllm_ext as tx

HIDDEN = 8


def build(define, **builder_config):
    """The serialized engine of the network that `define()` writes down."""
    builder = tx.Builder()
    network = builder.create_network()
    with tx.net_guard(network):
        define()
    return builder.build_engine(network, builder.create_builder_config(precision="float32", **builder_config))


def packed(name="x", dtype="float32", ranges=((1, 4, 16),), hidden=HIDDEN):
    """An input of packed tokens [num_tokens, hidden]."""
    return tx.Tensor(
        name=name,
        dtype=dtype,
        shape=[-1, hidden],
        dim_range=OrderedDict(num_tokens=[list(each) for each in ranges], hidden=[hidden] * len(ranges)),
    )
