"""What the machine can do: copy and read rates and the rate of a large bf16 product, measured in the same run."""

import torch
from timing import interleaved_us, prepare


def measure(device: str, tiny: bool, rounds: int) -> dict[str, float]:
    """Bytes a second of copying (read and written) and of reading, operations a second of a product."""
    elements, side = (1 << 16, 64) if tiny else (1 << 30, 8192)
    samples = _moved(device, elements, rounds) | _multiplied(device, side, rounds)
    best = {name: _median(each) * 1e-6 for name, each in samples.items()}
    return {
        "copy_bytes_per_s": 2 * 4 * elements / best["copy"],
        "read_bytes_per_s": 4 * elements / min(best["sum"], best["largest"]),
        "bf16_flop_per_s": 2 * side**3 / best["product"],
    }


def _moved(device: str, elements: int, rounds: int) -> dict[str, list[float]]:
    source = torch.randn(elements, device=device)
    target = torch.empty_like(source)
    moves = {
        "copy": lambda _: target.copy_(source),
        "sum": lambda _: source.sum(),
        "largest": lambda _: source.amax(),
    }
    return interleaved_us({name: prepare(call, 1, device) for name, call in moves.items()}, device, rounds)


def _multiplied(device: str, side: int, rounds: int) -> dict[str, list[float]]:
    x, weight = (torch.randn(side, side, device=device).to(torch.bfloat16) for _ in range(2))
    product = torch.empty_like(x)
    multiply = prepare(lambda _: torch.mm(x, weight.T, out=product), 2, device)
    return interleaved_us({"product": multiply}, device, rounds)


def _median(samples: list[float]) -> float:
    return sorted(samples)[len(samples) // 2]
