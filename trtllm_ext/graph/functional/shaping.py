"""Other shapes and other orders of the same elements.

All become static IShuffleLayers where the sizes that vary allow it: 0 copies a dimension from the input, -1 infers one,
and a transposition inside the same layer moves dimensions of size one. Shape tensors are the last resort.
"""

from collections.abc import Sequence
from typing import Any

from trtllm_ext.graph.functional.operands import (
    dim_resolve_negative,
    one_dim,
    require_index_dtype,
)
from trtllm_ext.graph.layer import add_layer, fail, output
from trtllm_ext.graph.tensor import Tensor


def view(input: Tensor, shape: Tensor | Sequence[Any], zero_is_placeholder: bool = True) -> Tensor:
    """The elements of `input`, in order, as another shape.

    shape: sizes, of which one may be -1 (inferred) and, with zero_is_placeholder, any may be 0 (copied from the input's
        dimension of that index); or a rank-1 integer Tensor; or a list in which some sizes are rank-0 Tensors.
    Raises GraphError for more than one -1, and when the sizes do not fit.
    """
    if not isinstance(shape, Tensor) and any(isinstance(size, Tensor) for size in shape):
        from trtllm_ext.graph.functional.joining import concat

        shape = concat(list(shape))
    layer = add_layer("add_shuffle", input)
    layer.zero_is_placeholder = zero_is_placeholder
    if isinstance(shape, Tensor):
        require_index_dtype(shape, "shape")
        layer.set_input(1, shape.trt_tensor)
    else:
        if list(shape).count(-1) > 1:
            raise fail(f"the shape {tuple(shape)} leaves more than one size (-1) to be inferred")
        layer.reshape_dims = tuple(int(size) for size in shape)
    return output(layer, input.dtype)


def reshape_to(input: Tensor, sizes: Sequence[Any]) -> Tensor:
    """The elements of `input` as the shape `sizes`: ints, and rank-0 Tensors where a size varies.

    Cost: no layer where the shape is that already; no shape arithmetic where at most one size varies.
    """
    varying = [i for i, size in enumerate(sizes) if isinstance(size, Tensor)]
    known = [-1 if i in varying else int(size) for i, size in enumerate(sizes)]
    if tuple(known) == input.shape and len(varying) <= 1:
        return input
    if not varying or (len(varying) == 1 and 0 not in known):
        return view(input, known, zero_is_placeholder=False)
    return view(input, sizes, zero_is_placeholder=False)


def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Dimensions start_dim to end_dim (included) as one."""
    ndim = input.rank()
    if ndim == 0:
        return view(input, [1])
    first, last = one_dim(start_dim, ndim), one_dim(end_dim, ndim)
    if first > last:
        raise fail(f"start_dim {start_dim} comes after end_dim {end_dim} in {ndim} dimensions")
    merged: Any = 1
    sizes = input.shape
    for size in sizes[first : last + 1]:
        merged = -1 if merged == -1 or size == -1 else merged * size
    kept = [*range(first), merged, *range(last + 1, ndim)]
    static = _static_dims(input, [*map(_Copy, range(first)), merged, *map(_Copy, range(last + 1, ndim))])
    if static is not None:
        return _reshaped(input, static)
    from trtllm_ext.graph.functional.inspection import shape

    if merged == -1:
        merged = shape(input, first)
        for i in range(first + 1, last + 1):
            merged = merged * shape(input, i)
    kept = [shape(input, i) if sizes[i] == -1 else sizes[i] for i in range(ndim)]
    return view(input, [*kept[:first], merged, *kept[last + 1 :]], zero_is_placeholder=False)


def permute(input: Tensor, dims: Sequence[int]) -> Tensor:
    """Dimension i of the result is dimension dims[i] of the input. Raises GraphError unless dims name each once."""
    order = dim_resolve_negative(dims, input.rank())
    if len(order) != input.rank():
        raise fail(f"permute names the dimensions {tuple(dims)}, the input has {input.rank()}: {input.shape}")
    layer = add_layer("add_shuffle", input)
    layer.second_transpose = order
    return output(layer, input.dtype)


def transpose(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """Two dimensions exchanged."""
    order = list(range(input.rank()))
    first, second = one_dim(dim0, len(order)), one_dim(dim1, len(order))
    order[first], order[second] = second, first
    return permute(input, order)


def expand_dims(input: Tensor, dim: int | Sequence[int], shape_cast_dtype: Any = None) -> Tensor:
    """Dimensions of size one at the places `dim` of the result.

    shape_cast_dtype: the type of the shape that TensorRT-LLM computes here; ours computes none, so it has no effect.
    """
    dims = (dim,) if isinstance(dim, int) else tuple(dim)
    out_rank = input.rank() + len(dims)
    added = dim_resolve_negative(dims, out_rank)
    source = iter(range(input.rank()))
    items: list[Any] = [1 if i in added else _Copy(next(source)) for i in range(out_rank)]
    static = _static_dims(input, items)
    if static is not None:
        return _reshaped(input, static)
    # Several sizes that vary change their place: put the ones last, where 0 still copies, then move them.
    kept = [i for i in range(out_rank) if i not in added]
    place = {out: i for i, out in enumerate([*kept, *sorted(added)])}
    layer = add_layer("add_shuffle", input)
    layer.reshape_dims = (0,) * input.rank() + (1,) * len(added)
    layer.second_transpose = tuple(place[i] for i in range(out_rank))
    return output(layer, input.dtype)


def unsqueeze(input: Tensor, axis: int) -> Tensor:
    """A dimension of size one at the place `axis` of the result."""
    return expand_dims(input, axis)


def squeeze(
    input: Tensor, dim: int | Sequence[int] | None = None, zero_is_placeholder: bool = False
) -> Tensor:
    """Without the dimensions `dim`, which are of size one; without `dim`, all whose size is known to be one.

    zero_is_placeholder: a setting of the shape that TensorRT-LLM computes here; ours computes none: no effect.
    Raises GraphError for a dimension of another known size. One whose size varies must be one at run time.
    """
    sizes = input.shape
    if dim is None:
        dropped = tuple(i for i, size in enumerate(sizes) if size == 1)
    else:
        dropped = dim_resolve_negative(dim, len(sizes))
    wrong = [i for i in dropped if sizes[i] not in (1, -1)]
    if wrong:
        raise fail(f"squeeze drops dimension {wrong[0]} of the shape {sizes}, which is not of size 1")
    kept = [i for i in range(len(sizes)) if i not in dropped]
    static = _static_dims(input, [_Copy(i) for i in kept])
    if static is not None and all(sizes[i] == 1 for i in dropped):
        return _reshaped(input, static)
    # Put what is dropped last: then 0 copies all that is kept, and the volume is checked at run time.
    layer = add_layer("add_shuffle", input)
    layer.first_transpose = (*kept, *sorted(dropped))
    layer.reshape_dims = (0,) * len(kept)
    return output(layer, input.dtype)


def expand(input: Tensor, expand_shape: Tensor | Sequence[Any]) -> Tensor:
    """Dimensions of size one repeated until the shape is `expand_shape`; the others must have that size already.

    expand_shape: a rank-1 integer Tensor, or a list of sizes (ints or rank-0 Tensors; TensorRT-LLM takes only the
        Tensor).
    Raises GraphError when the ranks differ.
    """
    from trtllm_ext.graph.functional.elementwise import minimum, sub
    from trtllm_ext.graph.functional.inspection import shape
    from trtllm_ext.graph.functional.slicing import slice

    sizes = input.shape
    rank = expand_shape.shape[0] if isinstance(expand_shape, Tensor) else len(expand_shape)
    if rank != len(sizes):
        raise fail(f"expand gives {rank} sizes for the shape {sizes}; unsqueeze the input first")
    strides: list[Any] = [0 if size == 1 else 1 for size in sizes]
    for i, size in enumerate(sizes):
        wanted = None if isinstance(expand_shape, Tensor) else expand_shape[i]
        keeps = isinstance(wanted, Tensor) and wanted.dim_of == (id(input), i)
        if size == -1 and not keeps:
            strides[i] = minimum(sub(shape(input, i), 1), 1)  # whether it is one shows at run time
    return slice(input, [0] * rank, expand_shape, strides)


def expand_dims_like(left: Tensor | int | float, right: Tensor) -> Tensor:
    """`left` with 1s in front of its shape until it has the rank of `right`; a number becomes a constant first."""
    from trtllm_ext.graph.functional.operands import constant_to_tensor_, expand_rank

    return expand_rank(constant_to_tensor_(left), right.rank())


def expand_mask(mask: Tensor, tgt_len: Tensor | None = None) -> Tensor:
    """An additive attention mask [batch, 1, tgt_len, src_len] from `mask` [batch, src_len].

    It is 0.0, or -inf where the mask is 0.
    tgt_len: rank-0 integer; src_len by default. A row of -inf only becomes NaN in a softmax.
    """
    from trtllm_ext.graph.functional.elementwise import eq
    from trtllm_ext.graph.functional.inspection import shape
    from trtllm_ext.graph.functional.selection import where

    rows = expand_dims(mask, [1, 2])
    src_len = shape(rows, 3)
    target = src_len if tgt_len is None else tgt_len
    expanded = expand(rows, [shape(rows, 0), 1, target, src_len])
    return where(eq(expanded, 0), float("-inf"), 0.0)


class _Copy(int):
    """In a list of sizes: the size of the input's dimension of this index."""


def _static_dims(input: Tensor, items: Sequence[Any]) -> list[int] | None:
    """Sizes for a static reshape with 0 as placeholder, or None when that cannot say it."""
    sizes = input.shape
    dims: list[int] = []
    for i, item in enumerate(items):
        size = sizes[item] if isinstance(item, _Copy) else int(item)
        if isinstance(item, _Copy) and item == i and size <= 0:
            size = 0  # copied from the same place
        elif size == 0:
            return None  # a known size of zero can only be copied
        dims.append(size)
    return dims if dims.count(-1) <= 1 else None


def _reshaped(input: Tensor, dims: Sequence[int]) -> Tensor:
    return view(input, list(dims))
