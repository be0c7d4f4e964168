"""How the inputs and outputs of a rotated network relate to the original's: the file beside its weights.

rotation.safetensors holds `rotation` (hidden, hidden) in float64, and where the final norm had them `output_gain` and
`output_bias` (hidden,); its metadata says in words and in flags what is done with them.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from trtllm_ext.checkpoint.directory import ROTATION_FILE
from trtllm_ext.checkpoint.safetensors_file import SafetensorsFile
from trtllm_ext.checkpoint.safetensors_writer import SafetensorsWriter
from trtllm_ext.errors import CheckpointError

_FORMAT = "trtllm_ext stream rotation 1"

# What a sentence's vector is in the rotated network; none without one.
Pooled = Literal["none", "same", "like_tokens", "rotated"]


@dataclass(frozen=True, kw_only=True)
class StreamTransform:
    """What leads from the original's stream to the rotated one and back, all in float64.

    rotation: Q, (hidden, hidden). description: how Q was made.
    centre: whether the mean over channels is taken off first; it is gone then, and does not come back.
    gain, bias: of the final norm, which the rotated network leaves out; they belong behind the way back.
    pooled: a sentence's vector, where there is one, is the same as the original's, transformed like a token's, or
        rotated alone.
    """

    rotation: npt.NDArray[np.float64]
    description: str
    centre: bool = False
    gain: npt.NDArray[np.float64] | None = None
    bias: npt.NDArray[np.float64] | None = None
    pooled: Pooled = "none"

    def into(self, x: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """hidden_states or attention_output, (..., hidden), as the rotated network takes them."""
        wide = np.asarray(x).astype(np.float64)
        if self.centre:
            wide = wide - wide.mean(-1, keepdims=True)
        return np.asarray(wide @ self.rotation)

    def back(self, y: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """The rotated network's hidden_states_out or last_hidden_state as the original gives it.

        Less its mean over channels where `centre` holds and there is no final norm.
        """
        back = np.asarray(y).astype(np.float64) @ self.rotation.T
        if self.gain is not None:
            back = back * self.gain
        return np.asarray(back if self.bias is None else back + self.bias)

    def pooled_back(self, y: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """The rotated network's sentence_embedding as the original gives it."""
        if self.pooled == "same":
            return np.asarray(y).astype(np.float64)
        return (
            self.back(y)
            if self.pooled == "like_tokens"
            else np.asarray(y).astype(np.float64) @ self.rotation.T
        )

    def after(self, first: StreamTransform | None) -> StreamTransform:
        """This one, of a network that had been rotated before."""
        if first is None:
            return self
        pooled = first.pooled if self.pooled == "like_tokens" else self.pooled
        return replace(
            self,
            rotation=first.rotation @ self.rotation,
            description=f"{first.description}; then {self.description}",
            centre=first.centre or self.centre,
            gain=first.gain if self.gain is None else self.gain,
            bias=first.bias if self.bias is None else self.bias,
            pooled=pooled,
        )

    def sentences(self) -> dict[str, str]:
        """What inputs and outputs mean, in words."""
        centred = "(x - mean of x over channels) @ rotation" if self.centre else "x @ rotation"
        back = "y @ rotation.T" + (" * output_gain" if self.gain is not None else "")
        found = {
            "rotation": self.description,
            "inputs": f"hidden_states, attention_output: {centred}",
            "outputs": back + (" + output_bias" if self.bias is not None else ""),
        }
        pooled = {"same": "y", "like_tokens": "as outputs", "rotated": "y @ rotation.T"}
        if self.pooled == "none":
            return found
        return {**found, "inputs": "the same", "sentence_embedding": pooled[self.pooled]}


def save_transform(path: Path, transform: StreamTransform) -> None:
    """Write the file, the same bytes for the same transform; raises OSError."""
    arrays = {"rotation": transform.rotation, "output_gain": transform.gain, "output_bias": transform.bias}
    flags = {"format": _FORMAT, "centre": str(transform.centre).lower(), "pooled": transform.pooled}
    words = {f"how.{name}": text for name, text in transform.sentences().items()}
    there = {name: np.ascontiguousarray(value) for name, value in arrays.items() if value is not None}
    shapes = {name: value.shape for name, value in there.items()}
    # Not safetensors' own writer, which puts the metadata in another order each time.
    with ThreadPoolExecutor(max_workers=1) as disk:
        writer = SafetensorsWriter(path, shapes, np.dtype(np.float64), flags | words, disk=disk)
        try:
            for value in there.values():
                writer.feed(value)
            writer.finish(flags | words)
        finally:
            writer.close()


def load_transform(directory: str | os.PathLike[str]) -> StreamTransform:
    """The transform of a rotated checkpoint or model folder. Raises CheckpointError where there is none, or damaged."""
    path = Path(directory) / ROTATION_FILE
    file = SafetensorsFile(path)
    pooled: Any = file.metadata.get("pooled")
    if file.metadata.get("format") != _FORMAT or "rotation" not in file or pooled not in Pooled.__args__:  # type: ignore[attr-defined]
        raise CheckpointError(
            f"{path} is not what `trtllm-ext stream rotate` writes; rotate the checkpoint again."
        )
    optional = {name: file.get(name) for name in ("output_gain", "output_bias")}
    return StreamTransform(
        rotation=file["rotation"],
        description=file.metadata.get("how.rotation", ""),
        centre=file.metadata.get("centre") == "true",
        gain=optional["output_gain"],
        bias=optional["output_bias"],
        pooled=pooled,
    )
