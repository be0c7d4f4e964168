"""A source model's weights with a ledger: each is used, or dropped for a stated reason, or the source is refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trtllm_ext.checkpoint.convert.report import DroppedWeight
from trtllm_ext.checkpoint.safetensors_file import SafetensorsFile
from trtllm_ext.errors import CheckpointError
from trtllm_ext.runtime.json_files import read_json_object
from trtllm_ext.suggest import did_you_mean

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


class SourceWeights:
    """Weights by the converter's names, with a record of what became of each.

    weights: as named in the source. canonical: source name -> the converter's name for it.
    """

    def __init__(
        self, model_dir: Path, weights: Mapping[str, npt.NDArray], canonical: Mapping[str, str]
    ) -> None:
        self._model_dir = model_dir
        self._weights = weights
        self._source_names: dict[str, str] = {}
        for source, name in canonical.items():
            if name in self._source_names:
                raise CheckpointError(
                    f"{model_dir}: {self._source_names[name]} and {source} are the same weight under two names."
                )
            self._source_names[name] = source
        self._open = set(self._source_names)
        self._problems: list[str] = []
        self.dropped: list[DroppedWeight] = []

    def __contains__(self, name: str) -> bool:
        return name in self._source_names

    def names(self) -> list[str]:
        return list(self._source_names)

    def source_name(self, name: str) -> str:
        return self._source_names.get(name, name)

    def use(self, name: str, shape: tuple[int, ...]) -> npt.NDArray | None:
        """The weight, marked as used; a missing, misshapen or integer one is noted and gives None."""
        if name not in self._source_names:
            hint = did_you_mean(name, self._open)
            self._problems.append(f"{name} {shape} is missing" + (f" ({hint})" if hint else ""))
            return None
        values = self._weights[self._source_names[name]]
        self._open.discard(name)
        if values.shape != shape:
            self._problems.append(
                f"{self._source_names[name]} has shape {values.shape}, the config calls for {shape}"
            )
            return None
        if values.dtype.kind in "iub":
            self._problems.append(
                f"{self._source_names[name]} has the type {values.dtype.name}, not a float type"
            )
            return None
        return values

    def drop(self, name: str, reason: str) -> None:
        """Mark a weight as one that the model has no use for."""
        self._open.discard(name)
        self.dropped.append(DroppedWeight(self._source_names[name], reason))

    def drop_index(self, name: str, expected: npt.NDArray, meaning: str) -> None:
        """Drop a stored index table if it holds what every model of the kind counts on; note it otherwise."""
        if name not in self._source_names:
            return
        values = self._weights[self._source_names[name]]
        self._open.discard(name)
        if values.size != expected.size or not np.array_equal(values.reshape(-1), expected):
            self._problems.append(
                f"{self._source_names[name]} is not {meaning}, which this converter assumes"
            )
            return
        self.dropped.append(DroppedWeight(self._source_names[name], f"checked to be {meaning}"))

    def finish(self) -> None:
        """Raise CheckpointError listing every missing, misshapen and unused weight, if there is any."""
        unused = [
            f"{self._source_names[name]} is not used by this architecture" for name in sorted(self._open)
        ]
        problems = self._problems + unused
        if problems:
            more = f"; and {len(problems) - 20} more" if len(problems) > 20 else ""
            raise CheckpointError(
                f"{self._model_dir} does not hold the weights that its config.json calls for, {len(problems)} "
                f"problem(s): {'; '.join(problems[:20])}{more}. Nothing was written."
            )


def open_weights(model_dir: Path) -> Mapping[str, npt.NDArray]:
    """A model folder's weights by name, as read-only views of its mapped files.

    Reads model.safetensors, several safetensors files with an index, or (with torch installed) a
    pytorch_model.bin. Raises CheckpointError when there is none, and when files and index disagree.
    """
    if (model_dir / WEIGHTS_FILE).exists():
        return SafetensorsFile(model_dir / WEIGHTS_FILE)
    if (model_dir / INDEX_FILE).exists():
        return _open_sharded(model_dir)
    if (model_dir / "pytorch_model.bin").exists():
        from trtllm_ext.checkpoint.convert.torch_file import open_torch_file

        return open_torch_file(model_dir / "pytorch_model.bin")
    raise CheckpointError(
        f"{model_dir} holds no weights: none of {WEIGHTS_FILE}, {INDEX_FILE}, pytorch_model.bin is there."
    )


def _open_sharded(model_dir: Path) -> Mapping[str, npt.NDArray]:
    index = model_dir / INDEX_FILE
    weight_map = read_json_object(index, CheckpointError).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{index} has no weight_map from weight names to file names.")
    result: dict[str, npt.NDArray] = {}
    for file_name in sorted(set(weight_map.values())):
        if Path(file_name).name != file_name:
            raise CheckpointError(f"{index} points outside its folder: {file_name!r}.")
        file = SafetensorsFile(model_dir / file_name)
        listed = {name for name, place in weight_map.items() if place == file_name}
        if listed != set(file):
            odd = sorted(listed ^ set(file))
            raise CheckpointError(
                f"{model_dir / file_name} and {INDEX_FILE} disagree about {', '.join(odd[:5])}."
            )
        result.update(file)
    return result


def check_source_fields(
    data: Mapping[str, object], known: Iterable[str], where: Path, *, advice: str
) -> None:
    """Raise CheckpointError for a field of a source config that the converter does not know."""
    known = sorted(known)
    for name in data:
        if name not in known and not name.startswith("_"):
            hint = did_you_mean(name, known)
            raise CheckpointError(f"{where} has the unknown field {name}={data[name]!r}. {hint} {advice}")
