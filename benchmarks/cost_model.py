"""What a tensor-parallel run takes on any number of ranks, from what one machine shows with two.

    time(n) = a rank's own work (measured: its engine of n on every core, with a communicator that moves nothing)
            + for each collective, messages * latency + bytes sent / bandwidth + values added / rate of adding

The steps of a collective are those of `trtllm_ext/parallel/mpi_team.py`. Every rank is taken to have a processor core,
and every pair of ranks a link, like the ones that were measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trtllm_ext.parallel.mpi_team import WHOLE_BYTES, WHOLE_BYTES_OF_MORE


@dataclass(frozen=True)
class Link:
    """Two ranks' exchange of messages in both directions at once, and one rank's adding.

    latency: seconds of a message without content. seconds_a_byte: of one that is sent while another comes.
    adding: seconds to add a byte of float32 to another.
    """

    latency: float
    seconds_a_byte: float
    adding: float

    @classmethod
    def fitted(cls, sizes: Sequence[int], exchanges: Sequence[float], additions: Sequence[float]) -> Link:
        """From seconds at several message sizes in bytes, by least squares of the relative deviations."""
        columns = np.stack([np.ones(len(sizes)), np.array(sizes, float)], 1)
        times = np.array(exchanges)
        (latency, seconds_a_byte), *_ = np.linalg.lstsq(
            columns / times[:, None], np.ones(len(sizes)), rcond=None
        )
        adding = float(np.median(np.array(additions) / np.array(sizes)))
        return cls(float(max(latency, 0.0)), float(seconds_a_byte), adding)

    def message(self, nbytes: float) -> float:
        """Seconds of one exchange of messages of `nbytes`."""
        return self.latency + nbytes * self.seconds_a_byte

    def all_reduce(self, ranks: int, nbytes: int) -> float:
        """Seconds of the sum of `nbytes` over `ranks`, in rank order."""
        if ranks == 1:
            return 0.0
        share, others = nbytes / ranks, ranks - 1
        if nbytes <= WHOLE_BYTES.get(ranks, WHOLE_BYTES_OF_MORE):
            # Everybody's values to everybody: in log2(n) rounds that double what each rank has.
            gathering = math.ceil(math.log2(ranks)) * self.latency + others * nbytes * self.seconds_a_byte
            return gathering + others * nbytes * self.adding
        # A slice from everybody to its owner, who adds it up and sends it to everybody.
        return 2 * others * self.message(share) + others * share * self.adding


def predicted(own_work: float, ranks: int, nbytes: int, count: int, link: Link) -> float:
    """Seconds of a run: a rank's own work, and `count` sums of `nbytes`."""
    return own_work + count * link.all_reduce(ranks, nbytes)
