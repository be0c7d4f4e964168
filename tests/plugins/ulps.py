"""How far a result may be from float64: a rounding to its type, and what float32 arithmetic adds before it."""

import torch

# Mantissa bits with the hidden one, and the exponent of the smallest normal number as frexp() tells it.
_MANTISSA = {torch.float32: (24, -125), torch.float16: (11, -13), torch.bfloat16: (8, -125)}


def assert_rounded(got, wanted, slack, what=""):
    """Fail unless each got is `wanted` (float64), off by `slack` (float64, a bound) and rounded once to got's type."""
    bits, smallest = _MANTISSA[got.dtype]
    exponent = torch.frexp(wanted).exponent.clamp(min=smallest)
    half = torch.ldexp(torch.ones_like(wanted), exponent - bits - 1)
    # A value near a power of two may be rounded on the side with the wider steps.
    error = (got.double() - wanted).abs() - slack
    worst = (error / half).max() if error.numel() else torch.zeros(())
    assert bool(worst <= 1 + 1e-6), (
        f"{what}: off by {float(worst):.3f} half steps of {got.dtype}, 1 is a rounding"
    )
