"""The map of a directory, whichever kind it is."""

from __future__ import annotations

import os
from pathlib import Path

from trtllm_ext.analysis.stream_map.contract_map import map_of_checkpoint
from trtllm_ext.analysis.stream_map.folder_map import map_of_folder
from trtllm_ext.analysis.stream_map.stream_map import StreamMap
from trtllm_ext.checkpoint.directory import kind_of
from trtllm_ext.errors import CheckpointError
from trtllm_ext.runtime.json_files import read_json_object


def read_stream_map(path: str | os.PathLike[str], *, stack: str | None = None) -> StreamMap:
    """The map of a checkpoint directory (of any number of ranks) or of a Hugging Face folder.

    stack: of a model that has two, 'encoder' or 'decoder', 'text' or 'vision'; None for the first.
    Raises CheckpointError for what is neither, or is not whole.
    """
    source = Path(path)
    config = source / "config.json"
    if not source.is_dir():
        raise CheckpointError(
            f"{source} {'is a file, not a directory' if source.exists() else 'does not exist'}."
        )
    if not config.is_file():
        raise CheckpointError(
            f"{source} has no config.json: it is neither a checkpoint directory (trtllm-ext convert) nor a Hugging "
            "Face model's folder."
        )
    data = read_json_object(config, CheckpointError)
    match kind_of(data):
        case "checkpoint":
            if stack is not None:
                raise CheckpointError(f"{source} is a checkpoint of one stack: leave stack={stack!r} out.")
            return map_of_checkpoint(source)
        case "engine":
            raise CheckpointError(
                f"{source} is an engine directory. Give the checkpoint directory that it was built from."
            )
        case _:
            return map_of_folder(source, data, stack)
