"""A plan written again with other weights, or without them."""

from collections.abc import Callable
from dataclasses import replace

from trtllm_ext.embedded.plan.blocks import Bytes, WeightBlocks
from trtllm_ext.embedded.plan.header import Header
from trtllm_ext.embedded.plan.reader import Plan
from trtllm_ext.embedded.plan.records import STRIPPED, SegmentWeight
from trtllm_ext.embedded.plan.writer import Sink, write_plan

# Weights by the number of their segment and their name there.
WeightPlace = tuple[int, str]


def rewrite_plan(
    sink: Sink,
    plan: Plan,
    current: Callable[[WeightPlace], Bytes | None],
    *,
    strip: bool,
    stays_refittable: bool,
) -> None:
    """Write `plan` with the weights that `current` gives for those that can be exchanged.

    strip: leave those weights out. stays_refittable: whether they can be exchanged in the plan written, too.
    Raises BuildError if a description gets too long, ValueError if weights to be written are missing, and whatever the
    sink raises.
    """
    header = plan.header
    places = {(record.segment, record.weight) for record in header.refit}
    blocks, numbers = WeightBlocks(), dict[int, int]()

    def placed(index: int, weight: SegmentWeight) -> SegmentWeight:
        place = (index, weight.name)
        if place not in places:
            if weight.block not in numbers:
                numbers[weight.block] = blocks.place(plan.weight(weight.block))
            return replace(weight, block=numbers[weight.block])
        if strip:
            return replace(weight, block=STRIPPED)
        data = current(place)
        if data is None:
            raise ValueError(f"the weights {weight.name!r} are missing")
        return replace(weight, block=blocks.place(data, shared=False))

    segments = tuple(
        replace(segment, weights=tuple(placed(index, weight) for weight in segment.weights))
        for index, segment in enumerate(header.segments)
    )
    written: Header = replace(
        header,
        segments=segments,
        weights=tuple(blocks.records),
        refit=header.refit if stays_refittable else (),
        is_refittable=stays_refittable,
    )
    models = [bytes(plan.segment(index)) for index in range(len(segments))]
    write_plan(sink, written, models, blocks.data)


def is_stripped(header: Header) -> bool:
    """Whether a plan lacks weights."""
    return any(weight.block == STRIPPED for segment in header.segments for weight in segment.weights)
