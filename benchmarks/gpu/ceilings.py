"""What the machine can do: copy and read rates and the rate of a large bf16 product, measured in the same run."""

import torch
from timing import interleaved_us, number_of_sets, prepare


def measure(device: str, tiny: bool, rounds: int) -> dict[str, float]:
    """Bytes a second of copying (read and written) and of reading, operations a second of a product."""
    sizes, side = ((1 << 12, 1 << 13), 64) if tiny else ((1 << 25, 1 << 27, 1 << 30), 8192)
    moved = [_moved(device, elements, rounds) for elements in sizes]
    product = _multiplied(device, side, rounds)
    return {
        "copy_bytes_per_s": max(each["copy"] for each in moved),
        "read_bytes_per_s": max(each["read"] for each in moved),
        "bf16_flop_per_s": 2 * side**3 / product,
    }


def _moved(device: str, elements: int, rounds: int) -> dict[str, float]:
    """Bytes a second with so many float32: an H200 copies 4 GiB at two thirds of the rate of 128 MiB."""
    sets = number_of_sets(4 * elements)
    sources = [torch.randn(elements, device=device) for _ in range(sets)]
    targets = [torch.empty_like(each) for each in sources]
    moves = {
        "copy": lambda number: targets[number].copy_(sources[number]),
        "sum": lambda number: sources[number].sum(),
        "largest": lambda number: sources[number].amax(),
    }
    samples = interleaved_us(
        {name: prepare(call, sets, device) for name, call in moves.items()}, device, rounds
    )
    seconds = {name: _seconds(each) for name, each in samples.items()}
    read = min(seconds["sum"], seconds["largest"])
    return {"copy": 2 * 4 * elements / seconds["copy"], "read": 4 * elements / read}


def _multiplied(device: str, side: int, rounds: int) -> float:
    """Seconds of a product of square matrices."""
    x, weight = (torch.randn(side, side, device=device).to(torch.bfloat16) for _ in range(2))
    product = torch.empty_like(x)
    multiply = prepare(lambda _: torch.mm(x, weight.T, out=product), 2, device)
    return _seconds(interleaved_us({"product": multiply}, device, rounds)["product"])


def _seconds(microseconds: list[float]) -> float:
    """The median."""
    return sorted(microseconds)[len(microseconds) // 2] * 1e-6
