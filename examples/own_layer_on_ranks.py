"""A layer of one's own over two ranks: `mpirun -n 2 python own_layer_on_ranks.py`, or without mpirun in one process."""

from collections import OrderedDict

import numpy as np

import trtllm_ext as tx
from trtllm_ext.layers import FeedForward, Residual, RmsNorm
from trtllm_ext.parallel import Communicator, run_ranks, world

hidden, ffn = 64, 256
rng = np.random.default_rng(0)  # seeded, so that every rank has the same weights and the same input
shapes = {"fc.weight": (ffn, hidden), "fc.bias": (ffn,), "proj.weight": (hidden, ffn), "proj.bias": (hidden,)}
whole = {f"sublayer.{name}": rng.normal(scale=0.1, size=shape) for name, shape in shapes.items()}
whole["norm.weight"] = rng.normal(1.0, 0.1, hidden)
x = rng.normal(size=(5, hidden)).astype(np.float32)


def share(name: str, ranks: int, rank: int) -> np.ndarray:
    """A rank's part of a weight: rows of fc, with their bias, and the same columns of proj; others are whole."""
    weight = whole[name]
    if name.startswith("sublayer.fc."):
        weight = np.split(weight, ranks, axis=0)[rank]
    elif name == "sublayer.proj.weight":
        weight = np.split(weight, ranks, axis=1)[rank]
    return np.ascontiguousarray(weight, np.float32)


def build(ranks: int, rank: int) -> bytes:
    """One rank's engine of x + F(norm(x)): as without ranks, but for tp_group and tp_size, and smaller weights."""
    feed_forward = FeedForward(hidden, ffn, "relu", tp_group=list(range(ranks)), tp_size=ranks)
    block = Residual(feed_forward, norm=RmsNorm(hidden))
    for name, parameter in block.named_parameters():
        parameter.value = share(name, ranks, rank)
    builder = tx.Builder()
    network = builder.create_network()
    with tx.net_guard(network):
        ranges = OrderedDict(num_tokens=[[1, 16, 128]], hidden=[hidden])
        block(tx.Tensor(name="x", dtype="float32", shape=[-1, hidden], dim_range=ranges)).mark_output("y")
    return builder.build_engine(network, builder.create_builder_config(precision="float32"))


def run(communicator: Communicator) -> np.ndarray:
    """What each rank does: its own engine, the same input and the same calls as the others."""
    engine = build(communicator.world_size, communicator.rank)
    with tx.Session.from_serialized_engine(engine, communicator=communicator) as session:
        return session.run({"x": x})["y"]


ranks = world()  # None where no launcher has started this program
y = run_ranks(2, run)[0] if ranks is None else run(ranks)

if ranks is None or ranks.rank == 0:  # all have the same y
    normed = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * whole["norm.weight"]
    inner = np.maximum(normed @ whole["sublayer.fc.weight"].T + whole["sublayer.fc.bias"], 0)
    expected = x + inner @ whole["sublayer.proj.weight"].T + whole["sublayer.proj.bias"]
    print(f"largest difference from NumPy: {np.abs(y - expected).max():.1e}")
    assert np.abs(y - expected).max() < 1e-5
