"""How far an engine may be from the oracle, in one table."""

from dataclasses import dataclass

import numpy as np

from zoo.case import Case


@dataclass(frozen=True)
class Tolerance:
    """unit: relative error of one rounding to the type; quantum: its smallest step, absolute."""

    unit: float
    quantum: float
    reason: str


TOLERANCE = {
    "FLOAT": Tolerance(0.0, 0.0, "the arithmetic of every floating type is float32's: see ARITHMETIC"),
    "HALF": Tolerance(1.02 * 2**-11, 2**-24, "half a unit in the last place, and a little for near-ties"),
    "BF16": Tolerance(1.02 * 2**-8, 0.0, "half a unit in the last place, and a little for near-ties"),
    "FP8": Tolerance(1.02 * 2**-4, 2**-10, "half a unit in the last place, and a little for near-ties"),
}
# Relative to a value, and to the largest of its tensor. float32 rounds to 6e-8; the vectorised exp, erf and tanh of
# CPUs are good to about 1e-6, and sums cancel.
ARITHMETIC = 2e-6


def allowed_error(case: Case, want: np.ndarray) -> np.ndarray:
    """What `roundings` roundings to the narrowest type explain, each after float32 arithmetic.

    The last rounding is relative to each value; those before it reach a value from its tensor's largest.
    """
    rule = TOLERANCE[case.narrowest]
    magnitude = np.abs(np.where(np.isfinite(want), want, 0.0))
    scale = float(np.max(magnitude, initial=0.0))
    last = rule.unit * magnitude + rule.quantum + 2.0**-140
    before = (case.roundings - 1) * rule.unit * (magnitude + scale)
    return last + before + case.roundings * ARITHMETIC * (magnitude + scale)


def difference(case: Case, name: str, got: np.ndarray, want: np.ndarray) -> str | None:
    """None if the engine's tensor is the oracle's within the tolerance, else a sentence on the worst element.

    Integers and booleans must be equal, NaNs and infinities at the same places.
    """
    if got.shape != want.shape:
        return f"{case.name}: {name} has shape {got.shape}, the oracle says {want.shape}"
    if want.dtype != np.float64:
        if got.dtype != want.dtype:
            return f"{case.name}: {name} is {got.dtype}, the oracle says {want.dtype}"
        if np.array_equal(got, want):
            return None
        place = tuple(int(i) for i in np.argwhere(got != want)[0])
        return f"{case.name}: {name}{list(place)} is {got[place]}, the oracle says {want[place]}"
    wide = got.astype(np.float64)
    finite = np.isfinite(want)
    with np.errstate(invalid="ignore"):
        excess = np.where(finite, np.abs(wide - want) / allowed_error(case, want), 0.0)
        same = finite | (wide == want) | (np.isnan(wide) & np.isnan(want))
    error = np.where(same, np.nan_to_num(excess, nan=np.inf), np.inf)
    fine = error <= 1.0
    if bool(fine.all()):
        return None
    place = tuple(int(i) for i in np.unravel_index(int(np.argmax(error)), error.shape))
    return (
        f"{case.name}: {name}{list(place)} is {wide[place]!r}, the oracle says {want[place]!r} "
        f"({int((~fine).sum())} of {fine.size} elements beyond {case.roundings} x {case.narrowest})"
    )
