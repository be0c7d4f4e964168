"""What `stream capture` writes: an engine's inputs in an .npz file, and beside it what their rows are, in JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trtllm_ext.errors import InputError
from trtllm_ext.runtime.atomic import replaced_file
from trtllm_ext.runtime.json_files import read_json_object, to_json

_KEY = "tokens"


def labels_file(path: str) -> Path:
    """'X.json' beside 'X.npz'."""
    return Path(path).with_suffix(".json")


def embeddings_file(path: str) -> Path:
    """'X.embeddings.npz' beside 'X.npz': what hidden_states is the sum of, where it is of several tables."""
    return Path(path).with_suffix(".embeddings.npz")


def write_labels(path: str, labels: Sequence[str], facts: dict[str, Any]) -> None:
    """labels: of the rows. facts: what else is to be known of them."""
    with replaced_file(str(labels_file(path)), error=InputError) as temporary:
        temporary.write_text(to_json({_KEY: list(labels), **facts}), encoding="utf-8")


def read_labels(path: str) -> list[str] | None:
    """The texts of an input's rows, where they are written beside it."""
    file = labels_file(path)
    if not file.is_file():
        return None
    labels = read_json_object(file, InputError).get(_KEY)
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        return None  # somebody else's file of that name
    return labels
