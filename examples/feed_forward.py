"""The smallest whole thing: a feed-forward sublayer in a residual block, built, saved, loaded and run."""

from collections import OrderedDict
from pathlib import Path

import numpy as np

import trtllm_ext as tx
from trtllm_ext.layers import FeedForward, LayerNorm, Residual

hidden, ffn = 64, 256
block = Residual(
    FeedForward(hidden, ffn, hidden_act="relu", dtype="float32"), norm=LayerNorm(hidden, dtype="float32")
)
rng = np.random.default_rng(0)
for _, parameter in block.named_parameters():
    parameter.value = rng.normal(scale=0.1, size=parameter.shape).astype(np.float32)

builder = tx.Builder()
network = builder.create_network()
with tx.net_guard(network):
    x = tx.Tensor(
        name="x",
        dtype="float32",
        shape=[-1, hidden],
        dim_range=OrderedDict(num_tokens=[[1, 16, 128]], hidden=[hidden]),
    )
    block(x).mark_output("y", "float32")
engine = builder.build_engine(network, builder.create_builder_config(precision="float32"))
Path("block.engine").write_bytes(engine)

session = tx.Session.from_serialized_engine(Path("block.engine").read_bytes())
outputs = session.run({"x": rng.normal(size=(5, hidden)).astype(np.float32)})
print(outputs["y"].shape, outputs["y"][0, :4])
