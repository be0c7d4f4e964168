"""Blocks of weights in the order in which a plan holds them."""

from typing import Any

import numpy as np

from trtllm_ext.embedded.plan.layout import WEIGHT_ALIGNMENT, align
from trtllm_ext.embedded.plan.records import WeightRecord

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


class WeightBlocks:
    """Memory that becomes blocks; the same memory becomes one block, unless asked otherwise."""

    def __init__(self) -> None:
        self.records: list[WeightRecord] = []
        self.data: list[Bytes] = []
        self._numbers: dict[tuple[int, int], int] = {}

    def place(self, data: Bytes, *, shared: bool = True) -> int:
        """The number of the block with these bytes, at least one. Not shared, it is a block of its own."""
        key = (data.__array_interface__["data"][0], data.nbytes)
        if shared and key in self._numbers:
            return self._numbers[key]
        last = self.records[-1] if self.records else WeightRecord(offset=0, nbytes=0)
        offset = align(last.offset + last.nbytes, WEIGHT_ALIGNMENT)
        self.records.append(WeightRecord(offset=offset, nbytes=data.nbytes))
        self.data.append(data)
        if shared:
            self._numbers[key] = len(self.records) - 1
        return len(self.records) - 1
