"""Optimization profiles from the ranges that a network's inputs were declared with."""

from typing import Any

from trtllm_ext.errors import BuildError


def add_profiles(trt_builder: Any, network: Any, config: Any, force_num_profiles: int | None = None) -> int:
    """Add one optimization profile for each range of the inputs' `dim_range`; returns how many.

    Raises BuildError when inputs have different numbers of ranges, when dimensions of one name have different
    ranges, or when an input varies but has no range.
    """
    inputs = [tensor for tensor in network.get_inputs() if tensor.profiles]
    for tensor in network.get_inputs():
        if not tensor.profiles and any(dim < 0 for dim in tensor.shape):
            raise BuildError(
                f"input {tensor.name!r} of shape {tuple(tensor.shape)} varies but has no dim_range; declare it as "
                f"Tensor(..., dim_range=OrderedDict(name=[[min, opt, max]], ...))."
            )
    counts = {tensor.name: len(tensor.profiles) for tensor in inputs}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise BuildError(f"all inputs need the same number of ranges in dim_range, but {listed}.")
    count = next(iter(counts.values()), 0)
    if force_num_profiles is not None:
        if force_num_profiles > count:
            raise BuildError(
                f"force_num_profiles={force_num_profiles}, but the inputs declare {count} range(s). "
                f"{f'Give at most {count}, or leave it out' if count else 'Leave it out'}."
            )
        count = force_num_profiles
    for index in range(count):
        _check_names(inputs, index)
        profile = trt_builder.create_optimization_profile()
        for tensor in inputs:
            bounds = tensor.profiles[index]
            least, opt, most = (
                tuple(int(dim) for dim in dims) for dims in (bounds.min, bounds.opt, bounds.max)
            )
            _check_order(tensor.name, least, opt, most)
            profile.set_shape(tensor.name, least, opt, most)
        config.add_optimization_profile(profile)
    return count


def _check_names(inputs: list[Any], index: int) -> None:
    seen: dict[str, tuple[tuple[int, int, int], str]] = {}
    for tensor in inputs:
        bounds = tensor.profiles[index]
        for name, *sizes in zip(bounds.dimension_names, bounds.min, bounds.opt, bounds.max, strict=True):
            span, where = seen.setdefault(name, (tuple(sizes), tensor.name))
            if span != tuple(sizes):
                raise BuildError(
                    f"dimension {name!r} is [min, opt, max] = {list(span)} in input {where!r} but {sizes} in input "
                    f"{tensor.name!r}; dimensions of one name must have one range. Rename one, or make them agree."
                )


def _check_order(name: str, least: tuple[int, ...], opt: tuple[int, ...], most: tuple[int, ...]) -> None:
    for low, middle, high in zip(least, opt, most, strict=True):
        if not 0 <= low <= middle <= high:
            raise BuildError(
                f"input {name!r}: the profile min {least}, opt {opt}, max {most} is not in order; it must be "
                f"0 <= min <= opt <= max in each dimension."
            )
