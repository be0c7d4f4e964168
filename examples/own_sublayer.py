"""A sublayer of one's own in a residual block: any Module will do, and the block does the rest."""

from collections import OrderedDict

import numpy as np

import trtllm_ext as tx
from trtllm_ext.graph import Module, Parameter, Tensor, functional
from trtllm_ext.layers import LayerScale, Residual, RmsNorm

hidden, rank = 64, 8


class LowRankFeedForward(Module):
    """up(max(down(x), 0)^2), through a bottleneck of `rank` channels."""

    def __init__(self, hidden_size: int, rank: int) -> None:
        super().__init__()
        self.down = Parameter(shape=(rank, hidden_size), dtype="float32")
        self.up = Parameter(shape=(hidden_size, rank), dtype="float32")

    def forward(self, x: Tensor) -> Tensor:
        narrow = functional.squared_relu(functional.matmul(x, self.down.value, transb=True))
        self.register_network_output("bottleneck", narrow)  # may be looked at; costs nothing otherwise
        return functional.matmul(narrow, self.up.value, transb=True)


# output = x + g * F(norm(x)), with one learned factor g a channel.
block = Residual(LowRankFeedForward(hidden, rank), norm=RmsNorm(hidden), gate=LayerScale(hidden))
rng = np.random.default_rng(0)
for _, parameter in block.named_parameters():
    parameter.value = rng.normal(scale=0.3, size=parameter.shape).astype(np.float32)

builder = tx.Builder()
network = builder.create_network()
with tx.net_guard(network):
    ranges = OrderedDict(num_tokens=[[1, 16, 128]], hidden=[hidden])
    block(tx.Tensor(name="x", dtype="float32", shape=[-1, hidden], dim_range=ranges)).mark_output("y")
    # Everything that modules noted, by name: the bottleneck, and the stream before and after the sublayer.
    noted = dict(block.named_network_outputs())
    noted["sublayer.bottleneck"].mark_output("bottleneck")
engine = builder.build_engine(network, builder.create_builder_config(precision="float32"))

x = rng.normal(size=(5, hidden)).astype(np.float32)
with tx.Session.from_serialized_engine(engine) as session:
    outputs = session.run({"x": x})
    y, bottleneck = outputs["y"], outputs["bottleneck"]

# The same in NumPy.
value = {name: parameter.raw_value for name, parameter in block.named_parameters()}
normed = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * value["norm.weight"]
narrow = np.maximum(normed @ value["sublayer.down"].T, 0) ** 2
branch = narrow @ value["sublayer.up"].T
expected = x + value["gate.weight"] * branch
print(f"largest difference from NumPy: {np.abs(y - expected).max():.1e}")
assert np.abs(y - expected).max() < 1e-5 and np.abs(bottleneck - narrow).max() < 1e-5
