"""An engine of two ranks and an input, for programs that serve it."""

from dataclasses import replace
from pathlib import Path

import numpy as np

import trtllm_ext as tx
from trtllm_ext.models import sublayer_stack_config, write_random_checkpoint


def service_engine(folder: Path) -> Path:
    """Build FOLDER/engine, of a stack of width 64 over 2 ranks; FOLDER/x.npy is an input of 5 tokens."""
    config = sublayer_stack_config(hidden_size=64, ffn_hidden_size=128, num_hidden_layers=2)
    config = replace(config, mapping=tx.Mapping(world_size=2, tp_size=2))
    write_random_checkpoint(folder / "checkpoint", config)
    tx.build_engine_dir(folder / "checkpoint", folder / "engine", tx.BuildConfig(max_num_tokens=32))
    np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(5, 64)).astype(np.float32))
    return folder / "engine"
