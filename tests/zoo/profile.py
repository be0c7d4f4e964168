"""The optimization profile that spans a case's feeds."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from zoo.case import Case, Feed

Range = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def shape_ranges(feeds: Sequence[Feed]) -> dict[str, Range]:
    """Input name -> (min, opt, max) over the shapes of all feeds; opt is the first feed's."""
    return {name: _spanned([np.shape(feed[name]) for feed in feeds]) for name in feeds[0]}


def value_ranges(case: Case, feeds: Sequence[Feed]) -> dict[str, Range]:
    """The same over the values of the case's shape-tensor inputs."""
    return {
        name: _spanned([tuple(int(v) for v in np.ravel(feed[name])) for feed in feeds])
        for name in sorted(case.shape_inputs)
    }


def _spanned(rows: Sequence[tuple[int, ...]]) -> Range:
    columns = list(zip(*rows, strict=True))
    return tuple(map(min, columns)), rows[0], tuple(map(max, columns))


def add_profile(builder: Any, network: Any, config: Any, case: Case, feeds: Sequence[Feed]) -> None:
    """Adds one profile to the config, covering every dynamic input and shape-tensor input of the network."""
    profile = builder.create_optimization_profile()
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    ranges = shape_ranges(feeds)
    dynamic = [t.name for t in inputs if any(length == -1 for length in t.shape)]
    for name in dynamic:
        profile.set_shape(name, *ranges[name])
    values = value_ranges(case, feeds)
    for name, (low, usual, high) in values.items():
        profile.set_shape_input(name, low, usual, high)
    if dynamic or values:
        config.add_optimization_profile(profile)
