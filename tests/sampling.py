"""Which of many cases the default tests run: the others are long ones, and run in `make test-all`."""

import os
from itertools import product

import pytest


def thinned(cases, every=4, first=0):
    """The cases as pytest's parameters: every `every`-th is for the default tests, the one at `first` the first."""
    return [_marked(_parameter(case), i % every == first % every) for i, case in enumerate(cases)]


def telling(cases):
    """The cases as pytest's parameters, by their names, KIND-PART-PART: those of the default tests have something new.

    That is a part that no earlier case of the kind has.
    """
    seen = set()
    parameters = []
    for case in cases:
        kind, *parts = str(case).split("-")
        found = {(kind, part) for part in (kind, *parts)}
        parameters.append(_marked(_parameter(case), bool(found - seen)))
        seen |= found
    return parameters


def covered(**axes):
    """A parametrization by all combinations of values, name by name: of the default tests each value is in one.

    The axes are gone through side by side until the longest is at its end; a shorter one starts again, one further.
    """
    places = [range(len(axis)) for axis in axes.values()]
    kept = {
        tuple((i + i // len(place)) % len(place) for place in places) for i in range(max(map(len, places)))
    }
    cases = zip(product(*places), product(*axes.values()), strict=True)
    parameters = [_marked(pytest.param(*values), place in kept) for place, values in cases]
    return pytest.mark.parametrize(tuple(axes), parameters)


def examples(count):
    """How many examples of a property: the default tests, which draw the same ones every time, have a third."""
    return count if os.environ.get("HYPOTHESIS_PROFILE") == "explore" else -(-count // 3)


def _parameter(case):
    if hasattr(case, "marks"):
        return case
    return (
        pytest.param(*case)
        if isinstance(case, tuple) and not hasattr(case, "_fields")
        else pytest.param(case)
    )


def _marked(parameter, is_default):
    if is_default:
        return parameter
    return pytest.param(*parameter.values, id=parameter.id, marks=[*parameter.marks, pytest.mark.long])
