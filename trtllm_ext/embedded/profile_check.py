"""Profiles against the inputs of a network, and the shapes that follow at their optimum."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from trtllm_ext.embedded.plan import ProfileRecord, Range, TensorRecord
from trtllm_ext.embedded.profile import IOptimizationProfile
from trtllm_ext.embedded.tensor_types import element_type_named
from trtllm_ext.errors import BuildError


def profile_records(
    profiles: Sequence[IOptimizationProfile], inputs: Sequence[TensorRecord]
) -> tuple[ProfileRecord, ...]:
    """The profiles with a range for every input, those of static shape included.

    Without profiles, a network with neither dynamic nor shape inputs gets one by itself.
    Raises BuildError naming the profile and the input that do not fit.
    """
    if not profiles:
        for tensor in inputs:
            if -1 in tensor.shape or tensor.is_shape_input:
                what = "a dynamic shape" if -1 in tensor.shape else "values that shapes depend on"
                raise BuildError(
                    f"input {tensor.name!r} has {what} {tensor.shape}, but no optimization profile has been defined. "
                    "Add one to the builder config."
                )
        profiles = [IOptimizationProfile()]
    return tuple(_record(index, profile, inputs) for index, profile in enumerate(profiles))


def _record(index: int, profile: IOptimizationProfile, inputs: Sequence[TensorRecord]) -> ProfileRecord:
    known = {tensor.name for tensor in inputs}
    for name in (*profile._shapes, *profile._values):
        if name not in known:
            raise BuildError(
                f"profile {index} has a range for {name!r}, which is no input of the network; its inputs are "
                f"{', '.join(map(repr, sorted(known))) or 'none'}."
            )
    for tensor in inputs:
        if tensor.name in profile._values and not tensor.is_shape_input:
            raise BuildError(
                f"profile {index} has a range for the values of {tensor.name!r}, on whose values no shape depends; "
                "set_shape_input() is for shape inputs only, set_shape() is for all."
            )
    return ProfileRecord(
        shapes={tensor.name: _shape_range(index, profile, tensor) for tensor in inputs},
        values={
            tensor.name: _value_range(index, profile, tensor) for tensor in inputs if tensor.is_shape_input
        },
    )


def _shape_range(index: int, profile: IOptimizationProfile, tensor: TensorRecord) -> Range:
    given = profile._shapes.get(tensor.name)
    if given is None:
        if -1 in tensor.shape:
            raise BuildError(
                f"profile {index} has no range for input {tensor.name!r} of dynamic shape {tensor.shape}; set one "
                "with set_shape()."
            )
        return (tensor.shape, tensor.shape, tensor.shape)
    low, _, high = given
    if len(low) != len(tensor.shape):
        raise BuildError(
            f"profile {index} gives input {tensor.name!r} {len(low)} dimensions, its shape {tensor.shape} has "
            f"{len(tensor.shape)}."
        )
    for length, least, most in zip(tensor.shape, low, high, strict=True):
        if length != -1 and (least != length or most != length):
            raise BuildError(
                f"profile {index} gives input {tensor.name!r} min={low}, max={high}; where its shape {tensor.shape} "
                "is not -1, both must equal it."
            )
    return given


def _value_range(index: int, profile: IOptimizationProfile, tensor: TensorRecord) -> Range:
    if -1 in tensor.shape or len(tensor.shape) > 1:
        raise BuildError(
            f"shapes depend on the values of input {tensor.name!r} of shape {tensor.shape}; such an input has no or "
            "one dimension, of known length."
        )
    given = profile._values.get(tensor.name)
    if given is None:
        raise BuildError(
            f"profile {index} has no range for the values of {tensor.name!r}, which shapes depend on; set one with "
            "set_shape_input()."
        )
    count = tensor.shape[0] if tensor.shape else 1
    if len(given[0]) != count:
        raise BuildError(
            f"profile {index} gives {len(given[0])} values for {tensor.name!r}, which has {count} elements."
        )
    return given


def optimum_shapes(
    infer: Callable[
        [Mapping[str, tuple[int, ...]], Mapping[str, np.ndarray[Any, Any]]], Mapping[str, tuple[int, ...]]
    ],
    tensors: Sequence[TensorRecord],
    profile: ProfileRecord,
) -> Mapping[str, tuple[int, ...]]:
    """What `infer` says of the outputs at the optimum of a profile. Raises what it raises."""
    return infer(*inputs_at(tensors, profile, 1))


def inputs_at(
    tensors: Sequence[TensorRecord], profile: ProfileRecord, point: int
) -> tuple[dict[str, tuple[int, ...]], dict[str, np.ndarray[Any, Any]]]:
    """Shapes of all inputs, and values of shape inputs, at the minimum (0), optimum (1) or maximum (2) of a profile."""
    values = {
        tensor.name: np.array(
            profile.values[tensor.name][point], element_type_named(tensor.dtype).storage
        ).reshape(tensor.shape)
        for tensor in tensors
        if tensor.is_shape_input
    }
    shapes = {tensor.name: profile.shapes[tensor.name][point] for tensor in tensors if tensor.is_input}
    return shapes, values
