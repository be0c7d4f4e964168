"""Symbols for lengths that are known only at run time.

Dimensions of the network's inputs have names; equal names are equal lengths. Following them through the layers tells
ONNX Runtime that two operands have one shape, without which it does not fuse a residual with its norm, and tells the
lowering that a length computed from one tensor is the length of another.
"""

from collections.abc import Callable
from math import prod

from trtllm_ext.lowering.einsum import terms_of
from trtllm_ext.lowering.layer import Layer
from trtllm_ext.lowering.layer_view import EXPANSION
from trtllm_ext.lowering.reduction import axes_of_mask
from trtllm_ext.lowering.unit_axes import axes_of
from trtllm_ext.lowering.values import Element, Symbol, Value

Lengths = tuple[Element, ...] | None


# Their own lowering knows the lengths, from the layers inside.
_FOLLOWED_INSIDE = frozenset({"LOOP", "IF", EXPANSION})


def symbols_of(layer: Layer, value: Value) -> tuple[Symbol | None, ...]:
    """A symbol for each length of a layer's result that is not known; one of its own where no other fits."""
    follow = _FOLLOW.get(layer.view.kind)
    lengths = None if follow is None else follow(layer)
    if layer.view.kind in _FOLLOWED_INSIDE:
        lengths = value.lengths
    if lengths is None or len(lengths) != value.ndim:
        lengths = (None,) * value.ndim
    return tuple(
        None if known >= 0 else length if isinstance(length, Symbol) else Symbol(value.name, axis)
        for axis, (known, length) in enumerate(zip(value.shape, lengths, strict=True))
    )


def _broadcast(*shapes: tuple[Element, ...]) -> Lengths:
    rank = max(len(shape) for shape in shapes)
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    return tuple(_broadcast_length(lengths) for lengths in zip(*padded, strict=True))


def _broadcast_length(lengths: tuple[Element, ...]) -> Element:
    longer = {length for length in lengths if length != 1}
    # Of two different symbols either may turn out to be 1.
    return longer.pop() if len(longer) == 1 else (None if longer else 1)


def _of_all(layer: Layer) -> Lengths:
    return _broadcast(*(layer.raw(index).lengths for index in range(len(layer.values))))


def _of_first(layer: Layer) -> Lengths:
    return layer.raw(0).lengths


def _reduce(layer: Layer) -> Lengths:
    axes, lengths = axes_of_mask(layer.api.axes), layer.raw(0).lengths
    if layer.api.keep_dims:
        return tuple(1 if axis in axes else length for axis, length in enumerate(lengths))
    return tuple(length for axis, length in enumerate(lengths) if axis not in axes)


def _matrix_multiply(layer: Layer) -> Lengths:
    a, b = layer.raw(0).lengths, layer.raw(1).lengths
    op0, op1 = layer.api.op0.name, layer.api.op1.name
    batch = _broadcast(a[: -1 if op0 == "VECTOR" else -2], b[: -1 if op1 == "VECTOR" else -2]) or ()
    rows = () if op0 == "VECTOR" else (a[-1 if op0 == "TRANSPOSE" else -2],)
    columns = () if op1 == "VECTOR" else (b[-2 if op1 == "TRANSPOSE" else -1],)
    return (*batch, *rows, *columns)


def _gather(layer: Layer) -> Lengths:
    data, indices = layer.raw(0).lengths, layer.raw(1).lengths
    mode, batch = layer.api.mode.name, int(layer.api.num_elementwise_dims)
    if mode == "ELEMENT":
        return indices
    if mode == "ND":
        depth = indices[-1]
        return (*indices[:-1], *data[batch + depth :]) if isinstance(depth, int) else None
    axis = int(layer.api.axis)
    return (*data[:axis], *indices[batch:], *data[axis + 1 :])


def _concatenation(layer: Layer) -> Lengths:
    shapes = [layer.raw(index).lengths for index in range(len(layer.values))]
    axis = int(layer.api.axis)
    # Lengths beside the axis are equal by the rules of the layer: any that has a symbol will do.
    return tuple(
        None if place == axis else next((length for length in column if length is not None), None)
        for place, column in enumerate(zip(*shapes, strict=True))
    )


def _shuffle(layer: Layer) -> Lengths:
    source = layer.raw(0).lengths
    source = tuple(source[axis] for axis in tuple(layer.api.first_transpose)[: len(source)])
    out = tuple(layer.api.second_transpose)[: len(layer.output_shape)]
    shape = [0] * len(out)
    for axis, origin in enumerate(out):
        shape[origin] = layer.output_shape[axis]
    wanted = layer.raw(1).elements if layer.has(1) else None
    if wanted is None:
        try:
            wanted = tuple(layer.api.reshape_dims)
        except ValueError:
            wanted = source
    if len(wanted) != len(shape):
        wanted = source if len(source) == len(shape) else (None,) * len(shape)
    copied = bool(layer.api.zero_is_placeholder)
    reshaped: list[Element] = []
    for axis, length in enumerate(shape):
        element = source[axis] if wanted[axis] == 0 and copied and axis < len(source) else wanted[axis]
        reshaped.append(length if length >= 0 else element if isinstance(element, Symbol) else None)
    reshaped = _with_the_rest(source, reshaped)
    return tuple(reshaped[origin] for origin in out)


def _with_the_rest(source: tuple[Element, ...], reshaped: list[Element]) -> list[Element]:
    """The one length that a reshape leaves open is the symbol that only the input has, if the numbers agree."""
    if reshaped.count(None) != 1 or None in source:
        return reshaped
    left = [length for length in source if isinstance(length, Symbol)]
    for length in reshaped:
        if isinstance(length, Symbol):
            if length not in left:
                return reshaped
            left.remove(length)
    numbers = [prod(length for length in side if isinstance(length, int)) for side in (source, reshaped)]
    if len(left) == 1 and numbers[0] == numbers[1] != 0:
        return [left[0] if length is None else length for length in reshaped]
    return reshaped


def _slice(layer: Layer) -> Lengths:
    try:
        if layer.has(5) or tuple(layer.api.axes):
            return None
    except (AttributeError, ValueError):
        pass  # no axes: start, size and stride speak of all dimensions
    return layer.raw(2).elements if layer.has(2) else tuple(layer.api.shape)


def _fill(layer: Layer) -> Lengths:
    return layer.raw(0).elements if layer.has(0) else None


def _topk(layer: Layer) -> Lengths:
    count = (layer.raw(1).elements or (None,))[0] if layer.has(1) else int(layer.api.k)
    axes = axes_of_mask(layer.api.axes)
    return tuple(count if axis in axes else length for axis, length in enumerate(layer.raw(0).lengths))


def _one_hot(layer: Layer) -> Lengths:
    lengths = list(layer.raw(0).lengths)
    axis = int(layer.api.axis) % (len(lengths) + 1)
    return (*lengths[:axis], None, *lengths[axis:])


def _squeeze(layer: Layer) -> Lengths:
    lengths = layer.raw(0).lengths
    axes = axes_of(layer, len(lengths))
    return None if axes is None else tuple(length for axis, length in enumerate(lengths) if axis not in axes)


def _unsqueeze(layer: Layer) -> Lengths:
    rank, rest = len(layer.output_shape), iter(layer.raw(0).lengths)
    axes = axes_of(layer, rank)
    return None if axes is None else tuple(1 if axis in axes else next(rest) for axis in range(rank))


def _windowed(layer: Layer) -> Lengths:
    """Batch and, where as many windows as elements fit whatever the length, the spatial lengths."""
    data, api = layer.raw(0).lengths, layer.api
    is_pooling = layer.view.kind == "POOLING"
    size = tuple(api.window_size_nd if is_pooling else api.kernel_size_nd)
    dilation = (1,) * len(size) if is_pooling else tuple(api.dilation_nd)
    same = api.padding_mode.name.startswith("SAME")
    columns = zip(size, dilation, api.stride_nd, api.pre_padding, api.post_padding, strict=True)
    kept = [
        stride == 1 and (same or pre + post == step * (length - 1))
        for length, step, stride, pre, post in columns
    ]
    return (*data[:2], *(length if keep else None for length, keep in zip(data[2:], kept, strict=True)))


def _padding(layer: Layer) -> Lengths:
    return (*layer.raw(0).lengths[:-2], None, None)


def _deconvolution(layer: Layer) -> Lengths:
    lengths = layer.raw(0).lengths
    return (lengths[0], *(None,) * (len(lengths) - 1))


def _resize(layer: Layer) -> Lengths:
    if layer.has(1):
        return layer.raw(1).elements
    scales = list(layer.api.scales)
    if not scales:
        return None
    return tuple(
        length if scale == 1 else None for length, scale in zip(layer.raw(0).lengths, scales, strict=True)
    )


def _einsum(layer: Layer) -> Lengths:
    terms, output = terms_of(str(layer.api.equation))
    found: dict[str, list[Element]] = {letter: [] for term in terms for letter in term}
    for index, term in enumerate(terms):
        for letter, length in zip(term, layer.raw(index).lengths, strict=True):
            found[letter].append(length)
    return tuple(_broadcast_length(tuple(found[letter])) for letter in output)


_FOLLOW: dict[str, Callable[[Layer], Lengths]] = {
    "ELEMENTWISE": _of_all,
    "SELECT": _of_all,
    "UNARY": _of_first,
    "ACTIVATION": _of_first,
    "SOFTMAX": _of_first,
    "NORMALIZATION": _of_first,
    "CAST": _of_first,
    "IDENTITY": _of_first,
    "QUANTIZE": _of_first,
    "DEQUANTIZE": _of_first,
    "REDUCE": _reduce,
    "MATRIX_MULTIPLY": _matrix_multiply,
    "GATHER": _gather,
    "CONCATENATION": _concatenation,
    "SHUFFLE": _shuffle,
    "SLICE": _slice,
    "FILL": _fill,
    "CONVOLUTION": _windowed,
    "POOLING": _windowed,
    "DECONVOLUTION": _deconvolution,
    "PADDING": _padding,
    "SCALE": _of_first,
    "PARAMETRIC_RELU": _of_first,
    "RESIZE": _resize,
    "EINSUM": _einsum,
    "TOPK": _topk,
    "SCATTER": _of_first,
    "ONE_HOT": _one_hot,
    "CUMULATIVE": _of_first,
    "REVERSE_SEQUENCE": _of_first,
    "SQUEEZE": _squeeze,
    "UNSQUEEZE": _unsqueeze,
}
