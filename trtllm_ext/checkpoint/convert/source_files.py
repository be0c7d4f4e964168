"""The weight files of a model folder: safetensors or torch.save's, one or several with an index."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import numpy.typing as npt

from trtllm_ext.checkpoint.convert.torch_file import TorchFile, TorchShard
from trtllm_ext.checkpoint.safetensors_file import SafetensorsFile
from trtllm_ext.errors import CheckpointError
from trtllm_ext.runtime.json_files import read_json_object

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
TORCH_FILE = "pytorch_model.bin"
TORCH_INDEX_FILE = "pytorch_model.bin.index.json"


class WeightFile(Protocol):
    """Weights by name, as views of mapped pages: a look-up reads and copies no values.

    A view may lie at any byte (flags.aligned is then false); `stream` copies such a one chunk by chunk.
    """

    def __getitem__(self, name: str, /) -> npt.NDArray: ...
    def __iter__(self) -> Iterator[str]: ...
    def __len__(self) -> int: ...
    def release_pages(self, name: str) -> None:
        """Let the system take back the pages of one weight; they are read again when touched."""


class ShardedWeights(Mapping[str, npt.NDArray]):
    """The weights of several files under one roof."""

    def __init__(self, files: Mapping[str, WeightFile]) -> None:
        """files: the file of each weight, by the weight's name."""
        self._files = dict(files)

    def __getitem__(self, name: str) -> npt.NDArray:
        return self._files[name][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def release_pages(self, name: str) -> None:
        self._files[name].release_pages(name)


def open_weights(model_dir: Path) -> WeightFile:
    """A model folder's weights by name, as views of its mapped files: opening reads none of their values (but see
    TorchFile).

    Reads model.safetensors, several safetensors files with an index, or (with torch installed) a pytorch_model.bin
    or several with an index; the first of these that is there. Raises CheckpointError when there is none, and when
    files and index disagree.
    """
    if (model_dir / WEIGHTS_FILE).exists():
        return SafetensorsFile(model_dir / WEIGHTS_FILE)
    if (model_dir / INDEX_FILE).exists():
        return _open_sharded(model_dir / INDEX_FILE, SafetensorsFile)
    if (model_dir / TORCH_FILE).exists():
        return TorchFile(model_dir / TORCH_FILE)
    if (model_dir / TORCH_INDEX_FILE).exists():
        return _open_sharded(model_dir / TORCH_INDEX_FILE, TorchShard)
    raise CheckpointError(
        f"{model_dir} holds no weights: none of {WEIGHTS_FILE}, {INDEX_FILE}, {TORCH_FILE}, {TORCH_INDEX_FILE} is "
        "there."
    )


def _open_sharded(index: Path, open_file: Callable[[Path], WeightFile]) -> WeightFile:
    listed = _read_index(index)
    missing = [name for name in listed if not (index.parent / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{index} names {len(missing)} file(s) that are not there: {_some(missing)}. Fetch them, or the whole "
            "model again."
        )
    files: dict[str, WeightFile] = {}
    problems = []
    for file_name, names in listed.items():
        file = open_file(index.parent / file_name)
        held = set(file)
        if lacking := sorted(names - held):
            problems.append(f"{file_name} lacks {len(lacking)} of the weights listed: {_some(lacking)}")
        if unlisted := sorted(held - names):
            problems.append(f"{file_name} holds {len(unlisted)} that are not listed there: {_some(unlisted)}")
        files.update(dict.fromkeys(sorted(names), file))
    if problems:
        raise CheckpointError(
            f"{index} and its files disagree: {'; '.join(problems)}. They belong to different versions of the model, "
            "or were changed apart."
        )
    return ShardedWeights(files)


def _read_index(index: Path) -> dict[str, set[str]]:
    """File name -> the names of its weights, files in alphabetical order."""
    weight_map = read_json_object(index, CheckpointError).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{index} has no weight_map from weight names to file names.")
    listed: dict[str, set[str]] = {name: set() for name in sorted(set(weight_map.values()))}
    for file_name in listed:
        if Path(file_name).name != file_name:
            raise CheckpointError(f"{index} points outside its folder: {file_name!r}.")
    for name, file_name in weight_map.items():
        listed[file_name].add(name)
    return listed


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
