"""Looking inside a stack: what each sublayer adds to the residual stream, from one run of one engine."""

import tempfile

import numpy as np

import trtllm_ext as tx
from trtllm_ext.models import model_from_checkpoint, sublayer_stack_config, write_random_checkpoint

config = sublayer_stack_config(
    hidden_size=64, ffn_hidden_size=256, num_hidden_layers=4, hidden_act="silu", gated=True, norm="rms_norm"
)
with tempfile.TemporaryDirectory() as checkpoint:
    write_random_checkpoint(checkpoint, config)
    model = model_from_checkpoint(checkpoint)
    # Any sublayer's contribution, and the stream `before` and `after` it; the model's definition stays as it is.
    limits = tx.BuildConfig(max_num_tokens=32, taps=["*.contribution"])
    engine = tx.build(model, limits).engine

x = np.random.default_rng(0).normal(size=(5, 64)).astype(np.float32)
with tx.Session.from_serialized_engine(engine) as session:
    outputs = session.run({"hidden_states": x})
final = outputs.pop("hidden_states_out")

stream = x.astype(np.float64)
for name, contribution in outputs.items():
    share = np.linalg.norm(contribution, axis=-1) / np.linalg.norm(stream, axis=-1)
    print(f"{name}: {share.mean():.2f} of the stream's length")
    stream += contribution
print(f"the input and all contributions add up to the output within {np.abs(stream - final).max():.1e}")
assert np.abs(stream - final).max() < 1e-5
