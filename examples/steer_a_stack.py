"""Surgery on a stack: one engine, and runs with a sublayer dropped, its mean in its place, or the stream steered."""

import tempfile

import numpy as np

import trtllm_ext as tx
from trtllm_ext.analysis.steering import Surgery
from trtllm_ext.models import model_from_checkpoint, sublayer_stack_config, write_random_checkpoint

config = sublayer_stack_config(
    hidden_size=64, ffn_hidden_size=256, num_hidden_layers=4, hidden_act="silu", gated=True, norm="rms_norm"
)
with tempfile.TemporaryDirectory() as checkpoint:
    write_random_checkpoint(checkpoint, config)
    # What runs may change; `trtllm-ext build --surgery '*.contribution' '*.before'` asks for the same.
    limits = tx.BuildConfig(
        max_num_tokens=32, surgery=["*.contribution", "*.before"], taps=["*.contribution"]
    )
    engine = tx.build(model_from_checkpoint(checkpoint), limits)

inputs = {"hidden_states": np.random.default_rng(0).normal(size=(5, 64)).astype(np.float32)}
# An engine directory tells a session by itself which inputs may be left out.
with tx.Session.from_serialized_engine(engine.engine, input_defaults=engine.config.input_defaults) as session:
    unchanged = session.run(inputs)
    whole = unchanged["hidden_states_out"].copy()

    def changed_by(surgery: Surgery) -> float:
        """How far the output is from the unchanged one, as a share of its length."""
        output = session.run({**inputs, **surgery.inputs(inputs)})["hidden_states_out"]
        return float(np.linalg.norm(output - whole) / np.linalg.norm(whole))

    for layer in range(4):
        name = f"transformer.layers.{layer}.mlp.contribution"
        dropped = changed_by(Surgery(session).drop(name))
        ablated = changed_by(Surgery(session).replace(name, unchanged[name].mean(0)))
        print(f"layer {layer}: dropped {dropped:.3f}, its mean in its place {ablated:.3f}")

    # A vector joins the stream of the last token before layer 2: no other token's output moves.
    steered = Surgery(session).add("transformer.layers.2.mlp.before", np.ones(64), tokens=[-1])
    output = session.run({**inputs, **steered.inputs(inputs)})["hidden_states_out"]
    moved = np.abs(output - whole).max(axis=1)
    print(f"steered at the last token: outputs move by {', '.join(f'{each:.2f}' for each in moved)}")
    assert not moved[:-1].any() and moved[-1] > 0.1
    assert session.run(inputs)["hidden_states_out"].tobytes() == whole.tobytes()
