"""Networks that run the same on every TensorRT: `python networks.py NAME DTYPE FILE` builds and runs one.

Which TensorRT that is, `TRTLLM_EXT_BACKEND` says; what the network gives goes to FILE (npz), and one JSON line about
the engine to standard output.
"""

import json
import sys
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np

import trtllm_ext as tx
from trtllm_ext.layers import FeedForward, LayerNorm, Residual
from trtllm_ext.models import encoder_config, sublayer_stack_config, write_random_checkpoint

HIDDEN, FFN = 64, 256
Outputs = dict[str, np.ndarray]


def tokens(dtype: str, count: int) -> np.ndarray:
    return np.random.default_rng(count).normal(size=(count, HIDDEN)).astype(dtype)


def feed_forward(dtype: str) -> Outputs:
    """The program of the README: one residual feed-forward sublayer, at two lengths."""
    block = Residual(
        FeedForward(HIDDEN, FFN, hidden_act="relu", dtype=dtype), norm=LayerNorm(HIDDEN, dtype=dtype)
    )
    rng = np.random.default_rng(0)
    for _, parameter in block.named_parameters():
        parameter.value = rng.normal(scale=0.1, size=parameter.shape).astype(dtype)
    builder = tx.Builder()
    # A library that has only weak types needs the precision before the network.
    config = builder.create_builder_config(precision=dtype)
    network = builder.create_network()
    with tx.net_guard(network):
        ranges = OrderedDict(num_tokens=[[1, 16, 128]], hidden=[HIDDEN])
        x = tx.Tensor(name="x", dtype=dtype, shape=[-1, HIDDEN], dim_range=ranges)
        block(x).mark_output("y", dtype)
    with tx.Session.from_serialized_engine(builder.build_engine(network, config)) as session:
        return {f"y{count}": session.run({"x": tokens(dtype, count)})["y"] for count in (1, 5, 128)}


def stack(**form: object) -> Callable[[str], Outputs]:
    """A SublayerStack from a checkpoint on disk to an engine directory and back."""

    def run(dtype: str) -> Outputs:
        config = sublayer_stack_config(
            hidden_size=HIDDEN, ffn_hidden_size=FFN, num_hidden_layers=2, dtype=dtype, **form
        )
        with tempfile.TemporaryDirectory() as folder:
            checkpoint, engines = Path(folder, "checkpoint"), Path(folder, "engine")
            write_random_checkpoint(checkpoint, config)
            tx.build_engine_dir(checkpoint, engines, tx.BuildConfig(max_num_tokens=32, opt_num_tokens=8))
            with tx.Session.from_engine_dir(engines) as session:
                return {
                    f"y{count}": session.run({"hidden_states": tokens(dtype, count)})["hidden_states_out"]
                    for count in (1, 7, 32)
                }

    return run


def encoder(dtype: str) -> Outputs:
    """A small Encoder with mean pooling over padded sentences: integers, masks, gathers, softmax."""
    config = encoder_config(
        hidden_size=HIDDEN,
        ffn_hidden_size=FFN,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=100,
        max_position_embeddings=32,
        dtype=dtype,
    )
    rng = np.random.default_rng(2)
    mask = np.array([[1] * 9, [1] * 4 + [0] * 5], np.int32)
    inputs = {
        "input_ids": rng.integers(0, 100, mask.shape, np.int32),
        "attention_mask": mask,
        "token_type_ids": rng.integers(0, 2, mask.shape, np.int32),
    }
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, engines = Path(folder, "checkpoint"), Path(folder, "engine")
        write_random_checkpoint(checkpoint, config)
        tx.build_engine_dir(checkpoint, engines, tx.BuildConfig(max_batch_size=4, max_input_len=16))
        with tx.Session.from_engine_dir(engines) as session:
            return dict(session.run(inputs))


NETWORKS: dict[str, Callable[[str], Outputs]] = {
    "feed_forward": feed_forward,
    "encoder": encoder,
    "relu_pre": stack(),
    "gelu_erf_post": stack(hidden_act="gelu_erf", placement="post"),
    "gelu_tanh_sandwich": stack(hidden_act="gelu_tanh", placement="sandwich"),
    "swiglu_rms": stack(hidden_act="silu", gated=True, bias=False, norm="rms_norm", final_norm=True),
    "quick_gelu_branch": stack(hidden_act="quick_gelu", placement="branch", scale=0.5),
    "squared_relu_none": stack(hidden_act="squared_relu", placement="none", scale=0.1),
}


if __name__ == "__main__":
    name, dtype, path = sys.argv[1:]
    outputs = NETWORKS[name](dtype)
    np.savez(path, **outputs)
    chosen = {"tensorrt": tx.backend.tensorrt().__version__, "engine": tx.backend.choice().engine}
    sys.stdout.write(json.dumps(chosen) + "\n")
