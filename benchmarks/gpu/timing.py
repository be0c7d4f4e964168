"""Times of GPU work: CUDA graphs over data sets in rotation, variants in turns, medians of rounds.

On the CPU, where only the harness itself is tried, calls are timed one by one with the host's clock.
"""

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

# What lies in L2 from the call before would not be read from memory: sets in rotation are together many times as large.
ROTATED_BYTES = 1.3e9
MOST_SETS = 64

# A variant gets the number of a data set, and leaves its result in memory of its own.
Call = Callable[[int], object]


def number_of_sets(bytes_per_set: float) -> int:
    """How many data sets a rotation has."""
    return max(2, min(MOST_SETS, -int(-ROTATED_BYTES // bytes_per_set)))


@dataclass(frozen=True)
class Timed:
    """A variant ready to be timed: `replay` makes `calls` calls."""

    replay: Callable[[], None]
    calls: int


def prepare(call: Call, sets: int, device: str) -> Timed:
    """One call for each data set, in a CUDA graph; compilers and libraries have chosen what to run before."""

    def all_sets() -> None:
        # Results are kept to the end: memory that the next call got again would be written in L2 alone.
        results = [call(number) for number in range(sets)]
        results.clear()

    if device == "cpu":
        return Timed(all_sets, sets)
    warm = torch.cuda.Stream()
    warm.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(warm):
        for _ in range(3):
            call(0)
    torch.cuda.current_stream().wait_stream(warm)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        all_sets()
    return Timed(graph.replay, sets)


def interleaved_us(
    variants: Mapping[str, Timed], device: str, rounds: int, seconds_per_turn: float = 0.04
) -> dict[str, list[float]]:
    """Microseconds a call, one sample a round and variant, in a new random order each round."""
    turns = {}
    for name, variant in variants.items():
        once = max(_seconds(variant, 1, device), _seconds(variant, 1, device))
        turns[name] = max(1, min(200, int(seconds_per_turn / max(once * variant.calls, 1e-7))))
    samples: dict[str, list[float]] = {name: [] for name in variants}
    shuffled = random.Random(0)
    for _ in range(rounds):
        for name in shuffled.sample(list(variants), len(variants)):
            _seconds(variants[name], 1, device)
            samples[name].append(1e6 * _seconds(variants[name], turns[name], device))
    return samples


def _seconds(variant: Timed, replays: int, device: str) -> float:
    """Seconds a call."""
    if device == "cpu":
        begin = time.perf_counter()
        for _ in range(replays):
            variant.replay()
        return (time.perf_counter() - begin) / (replays * variant.calls)
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    for _ in range(replays):
        variant.replay()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / 1e3 / (replays * variant.calls)


def kernels_of(call: Call, device: str) -> list[tuple[str, float]]:
    """The kernels of one call and their microseconds, as PyTorch's profiler sees them; none on the CPU."""
    if device == "cpu":
        return []
    from torch.profiler import ProfilerActivity, profile

    try:
        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            call(0)
            torch.cuda.synchronize()
        return [(event.name[:160], event.time_range.elapsed_us()) for event in seen.events() or ()]
    except RuntimeError as problem:  # the times are there without it
        return [(f"not profiled: {problem}"[:160], 0.0)]


def relative_error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """|got - wanted| / |wanted| in float64."""
    return float(torch.linalg.vector_norm(got.double() - wanted) / torch.linalg.vector_norm(wanted.double()))
