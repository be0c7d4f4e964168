"""A Hugging Face folder to one of the same model whose residual stream lies in another basis."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trtllm_ext.analysis.progress import Progress, silent
from trtllm_ext.analysis.rotation.checkpoints import chosen_rotation
from trtllm_ext.analysis.rotation.folder_plan import HEAD, FolderPlan, Rows, plan_folder_rotation
from trtllm_ext.analysis.rotation.folding import Wide
from trtllm_ext.analysis.rotation.transform import StreamTransform, load_transform, save_transform
from trtllm_ext.analysis.stream_map import read_stream_map
from trtllm_ext.checkpoint.convert.source_files import INDEX_FILE, WEIGHTS_FILE, WeightFile, open_weights
from trtllm_ext.checkpoint.directory import ROTATION_FILE, kind_of
from trtllm_ext.checkpoint.dtypes import all_finite, convert_values, weight_dtype
from trtllm_ext.checkpoint.safetensors_writer import SafetensorsWriter, split_into_chunks
from trtllm_ext.errors import CheckpointError
from trtllm_ext.runtime.atomic import Kind, replaced_directory, write_errors
from trtllm_ext.runtime.json_files import read_json_object

_CONFIG = "config.json"
_FLOATS = ("float64", "float32", "float16", "bfloat16")
# Files of weights in any form, which would be those of the stream as it was.
_OTHER_WEIGHTS = re.compile(
    r".*\.(safetensors|bin|pt|pth|ckpt|h5|msgpack|ot|gguf|onnx|onnx_data)(\.index\.json)?|rotation\.safetensors"
)
# A folder is written where there is none: nothing in one tells whether it may be replaced.
_FOLDER = Kind(
    what="model folder", files=re.compile(r"(?!)"), is_config=lambda _: False, error=CheckpointError
)
# Vectors of the stream that are multiplied at once, in float64.
_BLOCK_BYTES = 16 << 20


@dataclass(frozen=True)
class RotatedFolder:
    """transform: of the stream; the model's inputs and logits stay what they were. num_bytes: of the weight files.

    untied: whether the head has become a weight of its own.
    """

    transform: StreamTransform
    num_bytes: int
    untied: bool


def rotate_folder(
    model_dir: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    *,
    rotation: str | os.PathLike[str] = "hadamard",
    seed: int = 0,
    dtype: str | None = None,
    progress: Progress | None = None,
) -> RotatedFolder:
    """Write a Hugging Face folder of the same model with its norms folded and its stream rotated.

    output_dir: new or empty. rotation, seed, dtype: as `rotate_checkpoint` takes them; LayerNorms stay, with a rotation
    that keeps the mean. Weight files are split as the source's; of the folder's other files those at its top are copied
    but for weights in other forms. rotation.safetensors beside them tells how the stream is rotated.
    Raises ConfigError for a model that is another one in a rotated basis or is not wholly described, with the reasons,
    and for a rotation that does not fit; CheckpointError for what cannot be read or written.
    Memory: the rotation in float64, one weight, and blocks of 16 MB.
    """
    source = Path(model_dir)
    config = _read_config(source)
    found = read_stream_map(source)
    plan = plan_folder_rotation(found)
    chosen = chosen_rotation(rotation, found.hidden_size, seed, keep_mean=plan.keep_mean)
    earlier = load_transform(source) if (source / ROTATION_FILE).is_file() else None
    transform = StreamTransform(
        rotation=chosen.matrix, description=chosen.description, gain=plan.final_gain
    ).after(earlier)
    weights = open_weights(source)
    turn = _Turned(weights, plan, chosen.matrix, None if dtype is None else weight_dtype(dtype))
    with replaced_directory(output_dir, _FOLDER) as stage, write_errors(output_dir, CheckpointError):
        num_bytes = _write_weights(stage, source, turn, progress or silent)
        _copy_others(source, stage)
        save_transform(stage / ROTATION_FILE, transform)
        text = json.dumps(_new_config(config, plan, dtype), indent=2) + "\n"
        (stage / _CONFIG).write_text(text, encoding="utf-8")
    return RotatedFolder(transform, num_bytes, plan.tied is not None)


class _Turned:
    """Every weight of the rotated folder, one at a time. dtype: of what has a float type; None for its own."""

    def __init__(self, weights: WeightFile, plan: FolderPlan, rotation: Wide, dtype: np.dtype | None) -> None:
        self.weights, self._plan, self._rotation, self._dtype = weights, plan, rotation, dtype
        self.tied = plan.tied

    def dtype(self, name: str) -> np.dtype:
        stored = self.weights[self._stored(name)].dtype
        return stored if self._dtype is None or stored.name not in _FLOATS else self._dtype

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.weights[self._stored(name)].shape)

    def pieces(self, name: str) -> Iterator[npt.NDArray]:
        """Flat contiguous chunks of the weight. Raises CheckpointError for NaN and infinity in what is rotated."""
        values = self.weights[self._stored(name)]
        dtype = self.dtype(name)
        if name in self._plan.rows:
            values = self._multiplied(name, values, dtype)
        elif (small := self._small(name, values)) is not None:
            values = convert_values(small, dtype, name)
        for chunk in split_into_chunks(np.ascontiguousarray(values)):
            yield chunk if chunk.dtype == dtype else convert_values(chunk, dtype, name)
        self.weights.release_pages(self._stored(name))

    def _stored(self, name: str) -> str:
        return self.tied if name == HEAD and self.tied is not None else name

    def _small(self, name: str, values: npt.NDArray) -> Wide | None:
        """Of a norm or a bias that is not copied."""
        plan = self._plan
        if name in plan.values:
            return plan.values[name].reshape(values.shape)
        if name in plan.shifts:
            return (plan.shifts[name] @ self._rotation).reshape(values.shape)
        return values.astype(np.float64) + plan.moved[name] if name in plan.moved else None

    def _multiplied(self, name: str, values: npt.NDArray, dtype: np.dtype) -> npt.NDArray:
        if not all_finite(values):
            raise CheckpointError(
                f"{name} holds NaN or infinity, which would be in all of it once it is rotated."
            )
        result = values.astype(dtype)
        for rows in self._plan.rows[name]:
            self._multiply(rows, values, result, name)
        return result

    def _multiply(self, rows: Rows, values: npt.NDArray, result: npt.NDArray, name: str) -> None:
        source, target = (
            np.moveaxis(np.atleast_2d(rows.piece.view(each)), rows.axis if each.ndim > 1 else -1, -1)
            for each in (values, result)
        )
        step = max(1, _BLOCK_BYTES // (8 * len(self._rotation)))
        for place in np.ndindex(source.shape[:-2]):
            for begin in range(0, source.shape[-2], step):
                index = (*place, slice(begin, begin + step))
                block = source[index].astype(np.float64)
                turned = (block if rows.gain is None else block * rows.gain) @ self._rotation
                target[index] = convert_values(turned, result.dtype, name)


def _write_weights(stage: Path, source: Path, turn: _Turned, tell: Progress) -> int:
    files = _file_names(source, turn)
    total = sum(len(names) for names in files.values())
    num_bytes = done = 0
    with ThreadPoolExecutor(max_workers=1) as disk:
        for file_name, names in files.items():
            shapes = {name: turn.shape(name) for name in names}
            dtypes = {name: turn.dtype(name) for name in names}
            metadata = {"format": "pt"}
            writer = SafetensorsWriter(stage / file_name, shapes, dtypes, metadata, disk=disk)
            try:
                for name in names:
                    for chunk in turn.pieces(name):
                        tell("rotating the weights", done, total)
                        writer.feed(chunk)
                    done += 1
                num_bytes += writer.finish(metadata)
            finally:
                writer.close()
    if list(files) != [WEIGHTS_FILE]:
        weight_map = {name: file_name for file_name, names in files.items() for name in names}
        index = {"metadata": {"total_size": num_bytes}, "weight_map": weight_map}
        (stage / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    tell("rotating the weights", total, total)
    return num_bytes


def _file_names(source: Path, turn: _Turned) -> dict[str, list[str]]:
    """The weights of each file to be written, split as the source's are; a head of its own is in the last one."""
    listed: Mapping[str, str] = {}
    for index in (INDEX_FILE, "pytorch_model.bin.index.json"):
        if not (source / WEIGHTS_FILE).exists() and (source / index).exists():
            listed = read_json_object(source / index, CheckpointError)["weight_map"]
            break
    files: dict[str, list[str]] = {}
    for name in turn.weights:
        file = listed.get(name, WEIGHTS_FILE)
        file = re.sub(r"^pytorch_model(.*)\.bin$", r"model\1.safetensors", file)
        files.setdefault(file, []).append(name)
    files = dict(sorted(files.items()))
    if turn.tied is not None:
        files[list(files)[-1]].append(HEAD)
    return files


def _copy_others(source: Path, stage: Path) -> None:
    for path in sorted(source.iterdir()):
        if path.is_file() and path.name != _CONFIG and not _OTHER_WEIGHTS.fullmatch(path.name):
            shutil.copyfile(path, stage / path.name)


def _read_config(source: Path) -> dict[str, Any]:
    if not (source / _CONFIG).is_file():
        raise CheckpointError(f"{source} has no {_CONFIG}: it is no Hugging Face model's folder.")
    config = read_json_object(source / _CONFIG, CheckpointError)
    if kind_of(config) != "model":
        raise CheckpointError(
            f"{source} is a {kind_of(config) or 'folder of another kind'}, no Hugging Face model's folder; give a "
            "checkpoint with --checkpoint_dir."
        )
    return config


def _new_config(config: dict[str, Any], plan: FolderPlan, dtype: str | None) -> dict[str, Any]:
    """The head is no table's any more; the type is the one written."""
    changes: dict[str, Any] = {"tie_word_embeddings": False} if plan.has_head else {}
    if dtype is not None:
        changes["dtype" if "dtype" in config else "torch_dtype"] = dtype
    inner = {
        key: {**value, **{name: new for name, new in changes.items() if name in value}}
        for key, value in config.items()
        if isinstance(value, dict)
    }
    return {**config, **inner, **changes}
