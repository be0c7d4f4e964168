"""Parts of a tensor: slices, splits."""

import builtins
import itertools
from collections.abc import Sequence
from typing import Any

from trtllm_ext.backend import tensorrt
from trtllm_ext.graph.dtypes import Scalar
from trtllm_ext.graph.functional.inspection import shape
from trtllm_ext.graph.functional.joining import concat
from trtllm_ext.graph.functional.operands import constant_to_tensor_, int_vector, one_dim, require_index_dtype
from trtllm_ext.graph.functional.selection import select
from trtllm_ext.graph.layer import add_layer, fail, output
from trtllm_ext.graph.tensor import Tensor


def slice(
    input: Tensor,
    starts: Tensor | Sequence[Any],
    sizes: Tensor | Sequence[Any],
    strides: Tensor | Sequence[Any] | None = None,
    mode: Any = None,
    fill_value: Tensor | Scalar | None = None,
) -> Tensor:
    """Elements from `starts` on, `sizes` of them in each dimension, `strides` apart.

    starts, sizes, strides: one item a dimension: a list of ints (or of ints and rank-0 Tensors), or a rank-1 integer
        Tensor. strides are 1 by default.
    mode: a `trt.SampleMode`; by default everything must lie inside the input.
    fill_value: what lies outside with SampleMode.FILL; zero by default.
    Raises GraphError when the numbers of items differ from the input's rank, when a static slice reaches outside of
    the input, or for a fill_value in another mode.
    """
    trt = tensorrt()
    rank = input.rank()
    wanted = {"starts": starts, "sizes": sizes, "strides": [1] * rank if strides is None else strides}
    static: list[tuple[int, ...]] = []
    dynamic: dict[int, Tensor] = {}
    for position, (name, items) in enumerate(wanted.items()):
        if not isinstance(items, Tensor) and any(isinstance(item, Tensor) for item in items):
            items = concat(list(items))
        given = items.shape[0] if isinstance(items, Tensor) and items.rank() == 1 else None
        count = given if isinstance(items, Tensor) else len(items)
        if count != rank:
            raise fail(f"slice: {name} has {count} items for an input of {rank} dimensions, {input.shape}")
        if isinstance(items, Tensor):
            require_index_dtype(items, name)
            dynamic[position + 1] = items
            static.append((1,) * rank)
        else:
            static.append(tuple(int(item) for item in items))
    if mode is None and not dynamic:
        _require_inside(input, *static)
    dims = [trt.Dims(list(items)) for items in static]
    layer = add_layer("add_slice", input, start=dims[0], shape=dims[1], stride=dims[2])
    if mode is not None:
        layer.mode = mode
    if fill_value is not None:
        if str(mode).rpartition(".")[2] != "FILL":
            raise fail(f"slice: a fill_value needs mode=SampleMode.FILL, got {mode}")
        layer.set_input(4, constant_to_tensor_(fill_value, input.dtype, to_array=False).trt_tensor)
    for position, tensor in dynamic.items():
        layer.set_input(position, tensor.trt_tensor)
    return output(layer, input.dtype)


def slice_axis(input: Tensor, dim: int, start: int, size: int, stride: int = 1) -> Tensor:
    """`size` elements of one dimension, from `start` on, `stride` apart; all of the others, which may vary."""
    dim = one_dim(dim, input.rank())
    return _slice_axis(input, dim, start, _sizes_with(input, dim, size), stride)


def split(tensor: Tensor, split_size_or_sections: int | Sequence[int], dim: int = 0) -> list[Tensor]:
    """Consecutive parts of one dimension.

    split_size_or_sections: the size of every part, or the list of their sizes.
    Raises GraphError when the size of the dimension varies, or the parts do not make it up exactly.
    """
    dim = one_dim(dim, tensor.rank())
    size = tensor.shape[dim]
    if size == -1:
        raise fail(f"split needs a dimension of known size; dimension {dim} of {tensor.shape} varies")
    if isinstance(split_size_or_sections, int):
        each = split_size_or_sections
        if each <= 0 or size % each:
            raise fail(f"dimension {dim} of size {size} does not split into parts of {each}")
        sections = [each] * (size // each)
    else:
        sections = [int(section) for section in split_size_or_sections]
        if builtins.sum(sections) != size or builtins.min(sections, default=0) < 0:
            raise fail(
                f"the sections {sections} make up {builtins.sum(sections)}, dimension {dim} has the size {size}"
            )
    sizes = {section: _sizes_with(tensor, dim, section) for section in dict.fromkeys(sections)}
    starts = itertools.accumulate(sections, initial=0)
    return [
        _slice_axis(tensor, dim, start, sizes[section])
        for start, section in zip(starts, sections, strict=False)
    ]


def chunk(tensor: Tensor, chunks: int, dim: int = 0) -> list[Tensor]:
    """`chunks` equal parts of one dimension. Raises GraphError when its size varies or does not divide."""
    dim = one_dim(dim, tensor.rank())
    size = tensor.shape[dim]
    if size == -1 or chunks <= 0 or size % chunks:
        raise fail(f"dimension {dim} of {tensor.shape} does not split into {chunks} equal parts")
    return split(tensor, size // chunks, dim)


def unbind(input: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """The tensors along one dimension, without it. Raises GraphError when its size varies."""
    dim = one_dim(dim, input.rank())
    size = input.shape[dim]
    if size == -1:
        raise fail(f"unbind needs a dimension of known size; dimension {dim} of {input.shape} varies")
    return tuple(select(input, dim, i) for i in range(size))


def _slice_axis(input: Tensor, dim: int, start: int, sizes: Tensor | list[int], stride: int = 1) -> Tensor:
    rank = input.rank()
    starts = [start if i == dim else 0 for i in range(rank)]
    return slice(input, starts, sizes, [stride if i == dim else 1 for i in range(rank)])


def _sizes_with(input: Tensor, dim: int, size: int) -> Tensor | list[int]:
    """The sizes of `input` with another one for `dim`: a list if all are known, else a shape tensor.

    The shape tensor is put together from runs of known sizes and slices of the input's shape, so that whoever reads
    the network can see that the sizes that vary are the input's own.
    """
    sizes = [size if i == dim else known for i, known in enumerate(input.shape)]
    if -1 not in sizes:
        return sizes
    whole = shape(input)
    parts: list[Any] = []
    for varies, run in itertools.groupby(range(len(sizes)), key=lambda i: sizes[i] == -1):
        places = list(run)
        if varies:
            parts.append(slice(whole, [places[0]], [len(places)]))
        else:
            parts.append(int_vector([sizes[i] for i in places], whole.dtype))
    return concat(parts)


def _require_inside(
    input: Tensor, starts: tuple[int, ...], sizes: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    for i, (known, start, size, stride) in enumerate(zip(input.shape, starts, sizes, strides, strict=True)):
        last = start + (size - 1) * stride
        if size < 0 or (
            size > 0
            and (builtins.min(start, last) < 0 or (known != -1 and builtins.max(start, last) >= known))
        ):
            raise fail(
                f"slice: dimension {i} of {input.shape} takes {size} elements from {start}, {stride} apart, which "
                "reaches outside of the input"
            )
