"""What a dry run tells: the tensors, weights, layers and collectives of each rank, as few lines as they need."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trtllm_ext.cli.terminal import human_bytes, table

if TYPE_CHECKING:
    from trtllm_ext.builder import BuildPlan, RankPlan

_NUMBERS = (1, 2, 3, 4)


def print_plan(plan: BuildPlan) -> None:
    """One row for ranks that follow each other and are alike; what ranks have in common is told once."""
    ranks = plan.ranks
    if len(ranks) == 1:
        print("dry run: the network is complete; nothing was built")
        print_tensors(ranks[0].inputs, ranks[0].outputs)
        print(f"  {human_bytes(ranks[0].weight_bytes)} of weights, {ranks[0].num_layers} layers")
        return
    print(f"dry run: the networks of {len(ranks)} ranks are complete; nothing was built")
    for same in _alike(ranks, lambda each: (each.inputs, each.outputs)):
        print(f"tensors of {_ranks_text([each.rank for each in same])}")
        print_tensors(same[0].inputs, same[0].outputs)
    rows = [
        [_span([each.rank for each in same]), *row]
        for row, same in itertools.groupby(ranks, lambda each: _row([each]))
    ]
    table(
        ["rank", "weights", "layers", "collectives", "bytes a run"], [*rows, ["all", *_row(ranks)]], _NUMBERS
    )
    _print_collectives(ranks)


def _row(ranks: Sequence[RankPlan]) -> list[str]:
    uses = [use for each in ranks for use in each.collectives]
    return [
        human_bytes(sum(each.weight_bytes for each in ranks)),
        str(sum(each.num_layers for each in ranks)),
        str(sum(use.count for use in uses)),
        human_bytes(sum(use.total_bytes for use in uses)),
    ]


def _print_collectives(ranks: Sequence[RankPlan]) -> None:
    print("collectives of a run with the largest inputs")
    rows = []
    for same in _alike(ranks, lambda each: each.collectives):
        whose = _span([each.rank for each in same])
        for use in same[0].collectives:
            sizes = (human_bytes(use.largest_bytes), human_bytes(use.total_bytes))
            rows.append([whose, str(use.count), *sizes, use.kind, use.dtype, _span(use.group)])
    table(["rank", "count", "largest", "bytes a run", "kind", "type", "group"], rows, (1, 2, 3))


def _alike(ranks: Sequence[RankPlan], key: Any) -> list[list[RankPlan]]:
    """Ranks with the same key together, in the order of their first."""
    found: dict[Any, list[RankPlan]] = {}
    for each in ranks:
        found.setdefault(key(each), []).append(each)
    return list(found.values())


def _ranks_text(ranks: Sequence[int]) -> str:
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {_span(ranks)}"


def _span(ranks: Sequence[int]) -> str:
    """[0, 1, 2, 3] -> "0..3", others as a list."""
    if len(ranks) > 2 and list(ranks) == list(range(ranks[0], ranks[-1] + 1)):
        return f"{ranks[0]}..{ranks[-1]}"
    return ",".join(map(str, ranks))


def print_tensors(inputs: Any, outputs: Any) -> None:
    """One line for each input, with the sizes that it may have, and output."""
    from trtllm_ext.runtime.tensors import describe_ranges

    for tensor in inputs:
        ranges = tuple((least, most) for least, _, most in tensor.profiles)
        print(f"  in   {tensor.name} {tensor.dtype} {describe_ranges(ranges) if ranges else tensor.shape}")
    for tensor in outputs:
        print(f"  out  {tensor.name} {tensor.dtype} {tensor.shape}")
