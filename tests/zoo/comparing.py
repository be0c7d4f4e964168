"""How far an engine may be from the oracle, in one table."""

from dataclasses import dataclass

import numpy as np

from zoo.case import Case


@dataclass(frozen=True)
class Tolerance:
    """relative: to each wanted value, per rounding; absolute: to the tensor's largest finite magnitude."""

    relative: float
    absolute: float
    reason: str


TOLERANCE = {
    "FLOAT": Tolerance(
        2e-6, 2e-6, "float32 rounds to 6e-8; the vectorised exp, erf, tanh of CPUs are good to about 1e-6"
    ),
    "HALF": Tolerance(
        2**-10, 2**-11, "one unit of fp16: half for the rounding, half for a tie that fell away"
    ),
    "BF16": Tolerance(2**-7, 2**-8, "one unit of bf16, likewise"),
}


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
    rule = TOLERANCE[case.narrowest]
    finite = np.isfinite(want)
    scale = float(np.max(np.abs(want[finite]), initial=0.0))
    # A float32 result that no narrow type was involved in has no excuse from one.
    allowed = case.roundings * (rule.relative * np.abs(want) + rule.absolute * scale) + np.float64(2.0**-140)
    with np.errstate(invalid="ignore"):
        fine = np.where(
            finite, np.abs(wide - want) <= allowed, (wide == want) | (np.isnan(wide) & np.isnan(want))
        )
    if bool(fine.all()):
        return None
    error = np.where(
        fine, -1.0, np.nan_to_num(np.abs(wide - want) / np.where(finite, allowed, 1.0), nan=np.inf)
    )
    place = tuple(int(i) for i in np.unravel_index(int(np.argmax(error)), error.shape))
    return (
        f"{case.name}: {name}{list(place)} is {wide[place]!r}, the oracle says {want[place]!r} "
        f"({int((~fine).sum())} of {fine.size} elements beyond {case.roundings} x {case.narrowest})"
    )
