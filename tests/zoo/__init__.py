"""A zoo of small networks, each defined with TensorRT's raw API, with inputs to run it on.

    from zoo import CASES, by_name, define
    network = define(case, trt, builder)

Between them they have every layer kind, operation, mode and type, static and dynamic shapes, both typing modes.
"""

from typing import Any

from zoo import (
    composed,
    control,
    equations,
    moving,
    pointwise,
    quantization,
    reducing,
    resizing,
    sampling,
    selection,
    spatial,
    weakly_typed,
)
from zoo.case import NUMPY, Case, DefinitionError, Feed
from zoo.profile import add_profile, shape_ranges, value_ranges

_FAMILIES = (
    pointwise,
    quantization,
    reducing,
    moving,
    sampling,
    selection,
    spatial,
    resizing,
    equations,
    composed,
    control,
    weakly_typed,
)
CASES: tuple[Case, ...] = tuple(case for family in _FAMILIES for case in family.cases())


def by_name(name: str) -> Case:
    return {case.name: case for case in CASES}[name]


def define(case: Case, trt: Any, builder: Any) -> Any:
    """The case's network, made with a Builder of the module `trt`."""
    flags = trt.NetworkDefinitionCreationFlag
    flag = 1 << int(flags.STRONGLY_TYPED) if case.strongly_typed else 0
    network = builder.create_network(flag)
    case.define(network, trt)
    return network


__all__ = [
    "CASES",
    "NUMPY",
    "Case",
    "DefinitionError",
    "Feed",
    "add_profile",
    "by_name",
    "define",
    "shape_ranges",
    "value_ranges",
]
