"""A checkpoint directory to one whose residual stream lies in another basis and whose norms have no weights."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trtllm_ext.analysis.progress import Progress, silent
from trtllm_ext.analysis.rotation.folding import Fold, Wide, is_uniform, shifted
from trtllm_ext.analysis.rotation.matrices import KINDS, Rotation, make_rotation, read_rotation
from trtllm_ext.analysis.rotation.symmetry import (
    LayerNormWay,
    PlacedNorm,
    check_symmetry,
    folds_layer_norms,
    keeps_layer_norms,
    placed_norms,
    rotated_contract,
)
from trtllm_ext.analysis.rotation.transform import StreamTransform, load_transform, save_transform
from trtllm_ext.checkpoint import Checkpoint, ModelConfig, load_config, write_checkpoint
from trtllm_ext.checkpoint.directory import COMPANIONS, ROTATION_FILE
from trtllm_ext.checkpoint.dtypes import convert_values, weight_dtype
from trtllm_ext.checkpoint.lazy import LazyCheckpoint
from trtllm_ext.checkpoint.sharding import whole_config
from trtllm_ext.checkpoint.weights import expected_weights
from trtllm_ext.errors import ConfigError

_READERS = ("fc", "gate", "router", "shared_expert_gate", "qkv")
_WRITERS = ("proj", "dense")


@dataclass(frozen=True)
class Rotated:
    """config: of the rotated network. transform: of its inputs and outputs. num_bytes: of the weights written."""

    config: ModelConfig
    transform: StreamTransform
    num_bytes: int


def rotate_checkpoint(
    checkpoint_dir: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    *,
    rotation: str | os.PathLike[str] = "hadamard",
    seed: int = 0,
    layer_norm: LayerNormWay = "auto",
    dtype: str | None = None,
    progress: Progress | None = None,
) -> Rotated:
    """Fold the norms of a checkpoint's stream, rotate the stream, and write the checkpoint of the same network.

    rotation: a kind (see `make_rotation`) or a file (see `read_rotation`). seed: of what is random.
    layer_norm: 'fold' takes the mean off the stream, so that LayerNorms become RMS norms; 'keep' leaves them, with a
        rotation that keeps the mean; 'auto' folds where everything reads the stream through a LayerNorm.
    dtype: of the weights written; None for the checkpoint's own. Values are rounded once, from float64.
    Beside the weights stands rotation.safetensors, for `load_transform`. Raises ConfigError for a network that is
    another one in a rotated basis, with the reasons, for a rotation that does not fit, and for the checkpoint's own
    directory as output_dir; CheckpointError as reading and writing a checkpoint do.
    Memory: the rotation and one matrix in float64, and blocks of 16 MB.
    """
    if Path(output_dir).resolve() == Path(checkpoint_dir).resolve():
        raise ConfigError(f"{output_dir} is what is read, which it would replace. Give another output_dir.")
    source = RotationPlan(checkpoint_dir, rotation=rotation, seed=seed, layer_norm=layer_norm, dtype=dtype)
    tell = progress or silent
    total = len(expected_weights(whole_config(source.config)))
    done = 0

    def values(name: str, shape: tuple[int, ...]) -> Iterator[npt.NDArray]:
        nonlocal done
        target = weight_dtype(source.config.dtype)
        for block in source.weight(name, shape):
            tell("rotating the weights", done, total)
            yield convert_values(block, target, name)
        done += 1

    with tempfile.TemporaryDirectory(prefix="rotation-") as folder:
        beside = Path(folder) / ROTATION_FILE
        save_transform(beside, source.transform)
        others = [Path(checkpoint_dir) / name for name in COMPANIONS if name != ROTATION_FILE]
        companions = [beside, *(path for path in others if path.is_file())]
        num_bytes = write_checkpoint(output_dir, source.config, values, companions=companions)
    tell("rotating the weights", total, total)
    return Rotated(source.config, source.transform, num_bytes)


def rotated_in_memory(
    checkpoint_dir: str | os.PathLike[str],
    *,
    rotation: str | os.PathLike[str] = "hadamard",
    seed: int = 0,
    layer_norm: LayerNormWay = "auto",
) -> tuple[Checkpoint, StreamTransform]:
    """What `rotate_checkpoint` makes, before it is rounded: every weight in float64, in memory, for small models."""
    plan = RotationPlan(checkpoint_dir, rotation=rotation, seed=seed, layer_norm=layer_norm)
    shapes = expected_weights(whole_config(plan.config))
    weights = {
        name: np.concatenate([block.reshape(-1) for block in plan.weight(name, shape)]).reshape(shape)
        for name, shape in shapes.items()
    }
    return Checkpoint(plan.config, weights), plan.transform


class RotationPlan:
    """Every weight of the rotated network, in float64, as blocks that follow from the checkpoint's.

    config: of the rotated network. transform: of its inputs and outputs.
    Arguments and errors are those of `rotate_checkpoint`. Weights are read and checked when they are asked for.
    """

    def __init__(
        self,
        checkpoint_dir: str | os.PathLike[str],
        *,
        rotation: str | os.PathLike[str] = "hadamard",
        seed: int = 0,
        layer_norm: LayerNormWay = "auto",
        dtype: str | None = None,
    ) -> None:
        self._stored = _Stored(checkpoint_dir)
        config = self._stored.config
        dtype = config.dtype if dtype is None else dtype
        weight_dtype(dtype)
        check_symmetry(config, self._stored.is_uniform, self._stored.is_zero, dtype)
        folds = folds_layer_norms(config, layer_norm)
        self._norms = {placed.name: placed for placed in placed_norms(config)}
        keep_mean = keeps_layer_norms(config, folds)
        found = chosen_rotation(rotation, config.hidden_size, seed, keep_mean=keep_mean)
        self.rotation: Rotation = found
        self._fold = Fold(found.matrix, folds)
        contract = rotated_contract(config, folds, self._has_shift)
        self.config = replace(config, contract=contract, dtype=dtype, source=_source(config, found, folds))
        self.transform = self._transform(folds).after(self._stored.earlier)

    def weight(self, name: str, shape: tuple[int, ...]) -> Iterator[Wide]:
        """A weight of the rotated network in row-major blocks. shape: of the whole weight."""
        parts = name.split(".")
        module, kind = parts[-2], parts[-1]
        if "embedding" in parts and kind == "weight" and module.endswith("_embedding"):
            yield from self._stored.streamed(name, self._fold.table)
        elif module in _READERS or "pooler" in parts:
            norm = self._norm_before(name)
            yield from self._reader(name, norm) if kind == "weight" else self._reader_bias(name, shape, norm)
        elif module in _WRITERS:
            one = self._fold.writer if kind == "weight" else lambda values: iter([self._fold.vector(values)])
            yield from self._stored.streamed(name, one, kind)
        elif kind == "bias" and name.removesuffix(".bias") in self._norms:
            yield self._fold.vector(self._stored.values(name))
        else:
            yield self._stored.values(name).astype(np.float64)

    def _reader(self, name: str, norm: PlacedNorm | None) -> Iterator[Wide]:
        gain = self._stored.gain(norm)
        yield from self._stored.streamed(name, lambda matrix: self._fold.reader(matrix, gain))

    def _reader_bias(self, name: str, shape: tuple[int, ...], norm: PlacedNorm | None) -> Iterator[Wide]:
        bias = (
            self._stored.values(name).astype(np.float64) if name in self._stored.shapes else np.zeros(shape)
        )
        shift = self._stored.shift(norm)
        if shift is not None:
            matrix = f"{name.removesuffix('.bias')}.weight"
            moved = list(self._stored.streamed(matrix, lambda values: iter([shifted(values, shift)])))
            bias = bias + np.concatenate(moved).reshape(shape)
        yield bias

    def _norm_before(self, name: str) -> PlacedNorm | None:
        """The norm that a reader reads the stream through; None where it reads the stream itself."""
        if ".pooler." in name:
            return self._norms.get("transformer.ln_f")
        layer = ".".join(name.split(".")[:3])
        contract = self._stored.config.contract
        if ".attention." in name:
            return self._read(f"{layer}.input_layernorm")
        sandwich = contract.feed_forward.residual.placement == "sandwich"
        return self._read(f"{layer}.{'pre_feedforward_layernorm' if sandwich else 'post_layernorm'}")

    def _read(self, name: str) -> PlacedNorm | None:
        placed = self._norms.get(name)
        return placed if placed is not None and placed.is_read else None

    def _has_shift(self, sublayer: str) -> bool:
        name = f"transformer.layers.0.{'attention.qkv' if sublayer == 'attention' else 'mlp.fc'}.weight"
        first = self._norm_before(name)
        if first is None:
            return False
        last = first.name.split(".")[-1]
        every = (f"transformer.layers.{i}.{last}" for i in range(self._stored.config.num_hidden_layers))
        return any(self._stored.shift(self._norms[each]) is not None for each in every)

    def _transform(self, folds: bool) -> StreamTransform:
        pooling, final = self._stored.config.contract.pooling, self._norms.get("transformer.ln_f")
        plain = StreamTransform(
            rotation=self.rotation.matrix,
            description=self.rotation.description,
            centre=folds,
            gain=self._stored.gain(final),
            bias=self._stored.shift(final),
        )
        if pooling is None or pooling.kind == "none":
            return plain
        if pooling.kind == "pooler":
            return replace(plain, pooled="same")
        return replace(plain, pooled="rotated" if pooling.normalize else "like_tokens")


class _Stored(LazyCheckpoint):
    """A checkpoint's weights as those of one rank, read one at a time, no page of which stays.

    earlier: the transform of a checkpoint that has been rotated before.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        super().__init__(directory)
        self.config = replace(self.config, mapping=load_config(directory).mapping)
        self.earlier = load_transform(directory) if (Path(directory) / ROTATION_FILE).is_file() else None

    def streamed(
        self, name: str, fold: Callable[[npt.NDArray], Iterator[Wide]], kind: str = "weight"
    ) -> Iterator[Wide]:
        """`fold` of a weight, or of each expert's."""
        values = self.values(name)
        ndim = 2 if kind == "weight" else 1
        for one in values if values.ndim > ndim else [values]:
            yield from fold(one)
        self.release_pages(name)

    def gain(self, placed: PlacedNorm | None) -> Wide | None:
        """A norm's weight with its offset; None without one."""
        if placed is None or not placed.norm.weight:
            return None
        return self.values(f"{placed.name}.weight").astype(np.float64) + placed.norm.weight_offset

    def shift(self, placed: PlacedNorm | None) -> Wide | None:
        """A norm's bias; None without one, or where it is zero."""
        if placed is None or not placed.norm.bias or self.is_zero(f"{placed.name}.bias"):
            return None
        return self.values(f"{placed.name}.bias").astype(np.float64)

    def is_uniform(self, name: str) -> bool:
        return is_uniform(self.values(name))

    def is_zero(self, name: str) -> bool:
        return not self.values(name).any()


def chosen_rotation(rotation: str | os.PathLike[str], size: int, seed: int, *, keep_mean: bool) -> Rotation:
    """The rotation of that kind, or in that file. Raises ConfigError and CheckpointError as they do."""
    if str(rotation) in KINDS:
        return make_rotation(str(rotation), size, seed, keep_mean=keep_mean)
    if Path(rotation).suffix or Path(rotation).exists():
        return read_rotation(rotation, size, keep_mean=keep_mean)
    raise ConfigError(
        f"rotation={str(rotation)!r} is neither a kind ({', '.join(KINDS)}) nor a .npy, .npz or .safetensors file."
    )


def _source(config: ModelConfig, rotation: Rotation, folds: bool) -> str:
    centred = ", less its mean" if folds else ""
    return f"{config.source or config.architecture}; stream rotated{centred}: {rotation.description}"
