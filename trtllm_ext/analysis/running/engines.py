"""The engine that is looked into: a directory built with taps, or one made of a checkpoint for the occasion."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trtllm_ext.analysis.running.parts import needs_weights
from trtllm_ext.builder import BuildConfig, build
from trtllm_ext.checkpoint import ModelConfig, load_config, load_whole
from trtllm_ext.checkpoint.directory import COMPANIONS
from trtllm_ext.checkpoint.lazy import LazyCheckpoint
from trtllm_ext.checkpoint.safetensors_file import aligned
from trtllm_ext.errors import ConfigError
from trtllm_ext.models import model_from_config
from trtllm_ext.runtime import EngineDir
from trtllm_ext.verify.own_weights import own_checkpoint
from trtllm_ext.verify.subject import subject_of

# Above this size of the weights an engine is worth keeping, and so is the user's to build.
MOST_BYTES = 1 << 30
# Runs are cut to that many tokens, or sentences, in an engine that is built here.
_LIMITS = {"max_num_tokens": 2048, "max_batch_size": 16}


@contextmanager
def tapped_engine(
    engine_dir: str | os.PathLike[str] | None = None,
    checkpoint_dir: str | os.PathLike[str] | None = None,
) -> Iterator[Path]:
    """An engine directory to analyse: the one given, or one built of a checkpoint with all taps, gone afterwards.

    A checkpoint of several ranks is put together first.
    Raises ConfigError unless one of the two is given, and for a checkpoint whose weights take more than 1 GiB;
    CheckpointError and BuildError as reading and building do.
    """
    if (engine_dir is None) == (checkpoint_dir is None):
        given = "both" if engine_dir is not None else "neither"
        raise ConfigError(
            f"{given} of --engine_dir and --checkpoint_dir given; give one: an engine built with --taps '*', or a "
            "checkpoint, of which one is built here."
        )
    if engine_dir is not None:
        yield Path(engine_dir)
        return
    assert checkpoint_dir is not None
    _check_size(Path(checkpoint_dir))
    checkpoint = LazyCheckpoint(checkpoint_dir)
    model = model_from_config(checkpoint.config)
    model.load({name: aligned(checkpoint.values(name)) for name in checkpoint.shapes})
    with tempfile.TemporaryDirectory(prefix="trtllm-ext-stream-") as folder:
        engine = Path(folder) / "engine"
        build(model, BuildConfig(taps=("*",)).updated(**_limits(checkpoint.config, model.limits))).save(
            engine
        )
        for name in COMPANIONS:
            if (Path(checkpoint_dir) / name).is_file():
                shutil.copy(Path(checkpoint_dir) / name, engine / name)
        yield engine


def weights_of(
    engine_dir: str | os.PathLike[str], checkpoint_dir: str | os.PathLike[str] | None
) -> Mapping[str, Any] | None:
    """The model's weights by their checkpoint names: the checkpoint's, or those that the engine itself holds.

    None where an engine of more than 1 GiB, or NVIDIA's, is to give them back, and its parts can be followed without.
    Raises ConfigError where they cannot.
    """
    if checkpoint_dir is not None:
        return load_whole(checkpoint_dir, allow_nan=True).weights
    subject = subject_of(engine_dir)
    config = ModelConfig.from_dict(dict(subject.config.pretrained_config))
    is_large = EngineDir.read(engine_dir).engine_path.stat().st_size > MOST_BYTES
    if is_large and not needs_weights(config):
        return None
    try:
        return own_checkpoint(subject).weights
    except ConfigError:
        if needs_weights(config):
            raise
        return None


def _limits(config: ModelConfig, known: Collection[str]) -> dict[str, int]:
    """Of those that the model knows; sentences of as many tokens as it has positions."""
    limits = {**_LIMITS, "max_input_len": config.num_positions}
    return {name: value for name, value in limits.items() if name in known}


def _check_size(checkpoint_dir: Path) -> None:
    load_config(checkpoint_dir)  # which tells what else the directory is
    size = sum(file.stat().st_size for file in checkpoint_dir.glob("rank*.safetensors"))
    if size > MOST_BYTES:
        raise ConfigError(
            f"{checkpoint_dir} holds {size / 2**30:.1f} GiB of weights; an engine is built on the fly of at most "
            f"{MOST_BYTES / 2**30:.0f} GiB. Build it once: trtllm-ext build --checkpoint_dir {checkpoint_dir} "
            "--output_dir ENGINE --taps '*', and give --engine_dir ENGINE."
        )
