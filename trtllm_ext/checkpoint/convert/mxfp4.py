"""Weights in MXFP4, as GPT-OSS is published: 4-bit floats in blocks of 32 that share a power of two.

Format: OCP Microscaling Formats (MX) specification, version 1.0. A weight `name` of shape (..., columns) is stored as
`name_blocks`, uint8 (..., columns / 32, 16), with two E2M1 numbers in a byte, the lower half first, and `name_scales`,
uint8 (..., columns / 32): E8M0, the exponent of two plus 127, where 255 is NaN.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from types import EllipsisType
from typing import cast

import numpy as np
import numpy.typing as npt

from trtllm_ext.checkpoint.convert.pieces import Shape
from trtllm_ext.checkpoint.convert.source_files import WeightFile
from trtllm_ext.checkpoint.dtypes import bfloat16
from trtllm_ext.errors import CheckpointError

BLOCKS, SCALES = "_blocks", "_scales"
_HALF_BLOCK = 16
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


@cache
def _pairs() -> npt.NDArray[np.uint32]:
    """The two bfloat16 numbers, as one, of each scale and byte: the entry 256 * scale + byte."""
    numbers = np.array([*_E2M1, *(-number for number in _E2M1)], np.float32)
    pairs = np.stack([np.tile(numbers, 16), np.repeat(numbers, 16)], axis=1)
    powers = np.append(np.ldexp(np.float32(1), np.arange(255) - 127), np.float32(np.nan))
    with np.errstate(over="ignore"):
        values = (powers[:, None, None] * pairs).astype(bfloat16)
    return values.view(np.uint32).reshape(-1)


class Mxfp4Values:
    """The numbers that blocks and scales stand for, bfloat16 of `shape`, made when a part is asked for.

    Every one of them is exact, but those beyond bfloat16's range, which are infinite, and blocks of scale NaN.
    Raises CheckpointError where blocks and scales do not have the format's types and shapes; `name` is for messages.
    """

    def __init__(self, name: str, blocks: npt.NDArray, scales: npt.NDArray) -> None:
        for kind, values in ((BLOCKS, blocks), (SCALES, scales)):
            if values.dtype != np.uint8:
                raise CheckpointError(
                    f"{name}{kind} has the type {values.dtype.name}; MXFP4 is stored in uint8."
                )
        if blocks.shape != (*scales.shape, _HALF_BLOCK):
            raise CheckpointError(
                f"{name}{BLOCKS} of the shape {blocks.shape} and {name}{SCALES} of {scales.shape} do not belong "
                f"together: MXFP4 has {_HALF_BLOCK} bytes to a scale."
            )
        self._blocks, self._scales = blocks, scales
        self.dtype = bfloat16
        self.shape: Shape = (*scales.shape[:-1], 2 * _HALF_BLOCK * scales.shape[-1])

    def __getitem__(self, key: tuple[slice | EllipsisType, ...]) -> npt.NDArray:
        """A part as an array of its own; key: a slice for each axis, then an ellipsis, as a Piece asks."""
        *rows, columns, _ = key
        scales = self._scales[tuple(rows)]
        entries = scales[..., None].astype(np.uint16) << 8 | self._blocks[tuple(rows)]
        values = _pairs()[entries].view(bfloat16)
        return values.reshape(*scales.shape[:-1], -1)[..., columns]


class Mxfp4Weights(Mapping[str, npt.NDArray]):
    """A weight file whose `name_blocks` are the numbers that they stand for; `name_scales` do not appear.

    Raises CheckpointError for blocks that have no scales.
    """

    def __init__(self, weights: WeightFile) -> None:
        self._weights = weights
        self._coded = {name for name in weights if name.endswith(BLOCKS)}
        missing = sorted({_scales_of(name) for name in self._coded} - set(weights))
        if missing:
            raise CheckpointError(
                f"weights in MXFP4 lack their scales: {', '.join(missing[:8])} "
                + (f"and {len(missing) - 8} more " if len(missing) > 8 else "")
                + "missing beside the blocks. Get the model's files again, all of them."
            )
        scales = {_scales_of(name) for name in self._coded}
        self._names = [name for name in weights if name not in scales]

    def __getitem__(self, name: str) -> npt.NDArray:
        values = self._weights[name]
        if name not in self._coded:
            return values
        decoded = Mxfp4Values(name.removesuffix(BLOCKS), values, self._weights[_scales_of(name)])
        return cast("npt.NDArray", decoded)  # as far as a Piece has use of one

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def release_pages(self, name: str) -> None:
        self._weights.release_pages(name)
        if name in self._coded:
            self._weights.release_pages(_scales_of(name))


def _scales_of(blocks: str) -> str:
    return blocks.removesuffix(BLOCKS) + SCALES
