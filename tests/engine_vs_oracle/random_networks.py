"""Random networks with a sound bound on how far an engine may be off.

A network is a list of steps over a growing list of tensors. Shapes are known while drawing: a dimension is
`(k, p)`, k times the run-time length n if p is 1. Every floating tensor carries a bound on its magnitude and on
the error that rounding each layer's output to its type can have led to (first order, by the layers' Lipschitz
constants), so no tolerance has to be guessed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st
from zoo.case import FLOATS, NUMPY, Case, Feed, constant, dtype, made, rng

Dim = tuple[int, int]
UNIT = {"FLOAT": 2e-6, "HALF": 2.0**-11, "BF16": 2.0**-8}
LENGTHS = (3, 1, 0)
MOST_ELEMENTS = 400
MOST_MAGNITUDE = 200.0


@dataclass(frozen=True)
class Sketch:
    """What is known of a tensor while the network is drawn."""

    type_name: str
    dims: tuple[Dim, ...]
    magnitude: float
    error: float = 0.0

    def shape(self, n: int) -> tuple[int, ...]:
        return tuple(k * n**p for k, p in self.dims)

    @property
    def declared(self) -> tuple[int, ...]:
        return tuple(-1 if p else k for k, p in self.dims)

    @property
    def dynamic(self) -> bool:
        return any(p for _, p in self.dims)

    def rounded(self) -> "Sketch":
        unit = UNIT.get(self.type_name, 0.0)
        error = self.error + unit * (self.magnitude + self.error)
        return Sketch(self.type_name, self.dims, self.magnitude + error, error)


@dataclass
class Drawn:
    """The network under construction: sketches of its tensors and the code that defines them."""

    sketches: list[Sketch] = field(default_factory=list)
    inputs: dict[str, Sketch] = field(default_factory=dict)
    steps: list[tuple[str, Callable[[Any, Any, list[Any]], Any]]] = field(default_factory=list)
    strongly_typed: bool = True

    def add(self, text: str, sketch: Sketch, build: Callable[[Any, Any, list[Any]], Any]) -> None:
        self.sketches.append(sketch)
        self.steps.append((text, build))

    def define(self, network: Any, trt: Any) -> None:
        tensors: list[Any] = []
        for _, build in self.steps:
            tensors.append(build(network, trt, tensors))
        read = {id(layer.get_input(i)) for layer in layers_of(network) for i in range(layer.num_inputs)}
        for index, tensor in enumerate(tensors):
            if id(tensor) not in read and not tensor.is_network_input:
                tensor.name = f"t{index}"
                network.mark_output(tensor)

    def feeds(self) -> list[Feed]:
        return [{name: values_for(name, sketch, n) for name, sketch in self.inputs.items()} for n in LENGTHS]

    def case(self) -> Case:
        return Case(name="random", define=self.define, feeds=self.feeds, strongly_typed=self.strongly_typed)

    def __repr__(self) -> str:
        return f"{'strongly' if self.strongly_typed else 'weakly'} typed\n" + "\n".join(
            f"t{i} = {text}" for i, (text, _) in enumerate(self.steps)
        )


def layers_of(network: Any) -> list[Any]:
    return [network.get_layer(i) for i in range(network.num_layers)]


def values_for(name: str, sketch: Sketch, n: int) -> np.ndarray:
    generator = rng(name, n)
    if sketch.type_name in FLOATS:
        return generator.uniform(-2, 2, sketch.shape(n)).astype(NUMPY[sketch.type_name])
    return generator.integers(-4, 5, sketch.shape(n)).astype(NUMPY[sketch.type_name])


@st.composite
def networks(draw: Callable[..., Any], most_steps: int = 12) -> Drawn:
    """A random network of up to `most_steps` layers (a few more where a step needs constants or shapes)."""
    drawn = Drawn(strongly_typed=draw(st.booleans()))
    for index in range(draw(st.integers(1, 2))):
        _add_input(drawn, f"x{index}", draw(st.sampled_from(FLOATS)), _dims(draw), 2.0)
    _add_input(drawn, "i", draw(st.sampled_from(["INT32", "INT64"])), _dims(draw), 4.0)
    for _ in range(draw(st.integers(4, most_steps))):
        source = draw(st.integers(0, len(drawn.sketches) - 1))
        kinds = [kind for kind, (fits, _) in STEPS.items() if fits(drawn.sketches[source])]
        kinds += [kind for kind in OFTEN if kind in kinds]
        STEPS[draw(st.sampled_from(kinds))][1](draw, drawn, source)
    return drawn


def _dims(draw: Callable[..., Any]) -> tuple[Dim, ...]:
    static = draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=3))
    dims = [(length, 0) for length in static]
    if draw(st.booleans()):
        dims.insert(draw(st.integers(0, len(dims))), (1, 1))
    return tuple(dims)


def _add_input(drawn: Drawn, name: str, type_name: str, dims: tuple[Dim, ...], magnitude: float) -> None:
    sketch = Sketch(type_name, dims, magnitude)
    drawn.inputs[name] = sketch
    shape = sketch.declared

    def build(network: Any, trt: Any, tensors: list[Any]) -> Any:
        return network.add_input(name, dtype(trt, type_name), shape)

    drawn.add(f"input {name} {type_name}{list(shape)}", sketch, build)


def _floating(sketch: Sketch) -> bool:
    return sketch.type_name in FLOATS


def _integer(sketch: Sketch) -> bool:
    return sketch.type_name in ("INT32", "INT64")


# kind -> bound of the result (None: the argument's), Lipschitz constant
ACTIVATIONS: dict[str, tuple[float | None, float]] = {
    "RELU": (None, 1.0), "SIGMOID": (1.0, 0.25), "TANH": (1.0, 1.0), "GELU_ERF": (None, 1.13),
    "GELU_TANH": (None, 1.13), "SOFTSIGN": (1.0, 1.0),
}  # fmt: skip
UNARY: dict[str, tuple[float | None, float]] = {
    "SIN": (1.0, 1.0), "COS": (1.0, 1.0), "ATAN": (1.6, 1.0), "ERF": (1.0, 1.13), "ABS": (None, 1.0),
    "NEG": (None, 1.0),
}  # fmt: skip


def activation(draw: Callable[..., Any], drawn: Drawn, source: int) -> None:
    kind = draw(st.sampled_from(list(ACTIVATIONS)))
    bound, slope = ACTIVATIONS[kind]
    _pointwise(
        drawn,
        source,
        kind,
        bound,
        slope,
        lambda n, t, x: n.add_activation(x, getattr(t.ActivationType, kind)),
    )


def unary(draw: Callable[..., Any], drawn: Drawn, source: int) -> None:
    exact = _integer(drawn.sketches[source])
    kind = draw(st.sampled_from(["ABS", "NEG"] if exact else list(UNARY)))
    bound, slope = UNARY[kind]
    _pointwise(
        drawn, source, kind, bound, slope, lambda n, t, x: n.add_unary(x, getattr(t.UnaryOperation, kind))
    )


def _pointwise(
    drawn: Drawn,
    source: int,
    text: str,
    bound: float | None,
    slope: float,
    add: Callable[[Any, Any, Any], Any],
) -> None:
    x = drawn.sketches[source]
    magnitude = x.magnitude if bound is None else bound
    sketch = Sketch(x.type_name, x.dims, magnitude, slope * x.error).rounded()
    drawn.add(f"{text}(t{source})", sketch, lambda network, trt, ts: made(add(network, trt, ts[source])))


def binary(draw: Callable[..., Any], drawn: Drawn, source: int) -> None:
    a = drawn.sketches[source]
    partners = [
        index
        for index, b in enumerate(drawn.sketches)
        if b.type_name == a.type_name and (b.dims == a.dims or _broadcasts(b.dims, a.dims))
    ]
    other = draw(st.sampled_from(partners))
    b = drawn.sketches[other]
    product_fits = a.magnitude * b.magnitude <= MOST_MAGNITUDE
    op = draw(st.sampled_from(["SUM", "SUB", "MAX", "MIN", *(["PROD"] if product_fits else [])]))
    if op == "PROD":
        magnitude, error = a.magnitude * b.magnitude, a.magnitude * b.error + b.magnitude * a.error
    else:
        magnitude, error = a.magnitude + b.magnitude, a.error + b.error
    sketch = Sketch(a.type_name, a.dims, magnitude, error).rounded()

    def build(network: Any, trt: Any, tensors: list[Any]) -> Any:
        return made(
            network.add_elementwise(tensors[source], tensors[other], getattr(trt.ElementWiseOperation, op))
        )

    drawn.add(f"{op}(t{source}, t{other})", sketch, build)


def _broadcasts(narrow: tuple[Dim, ...], wide: tuple[Dim, ...]) -> bool:
    return len(narrow) == len(wide) and all(a in (b, (1, 0)) for a, b in zip(narrow, wide, strict=True))


def choose(draw: Callable[..., Any], drawn: Drawn, source: int) -> None:
    """select(i > i', a, b) on integers: exact, so that no comparison hangs on a rounding."""
    x = drawn.sketches[source]
    bound = draw(st.integers(-3, 3))

    def build(network: Any, trt: Any, tensors: list[Any]) -> Any:
        value = tensors[source]
        limit = constant(network, trt, np.full((1,) * len(x.dims), bound), x.type_name)
        above = made(network.add_elementwise(value, limit, trt.ElementWiseOperation.GREATER))
        return made(network.add_select(above, value, limit))

    drawn.add(f"select(t{source} > {bound}, t{source}, {bound})", x, build)


def cast(draw: Callable[..., Any], drawn: Drawn, source: int) -> None:
    x = drawn.sketches[source]
    targets = [
        t for t in (FLOATS if _floating(x) else (*FLOATS, "INT32", "INT64", "BOOL")) if t != x.type_name
    ]
    target = draw(st.sampled_from(targets))
    magnitude = 1.0 if target == "BOOL" else x.magnitude
    sketch = Sketch(target, x.dims, magnitude, x.error).rounded()
    drawn.add(
        f"cast(t{source}, {target})", sketch, lambda n, t, ts: made(n.add_cast(ts[source], dtype(t, target)))
    )


def transpose(draw: Callable[..., Any], drawn: Drawn, source: int) -> None:
    x = drawn.sketches[source]
    order = tuple(draw(st.permutations(range(len(x.dims)))))
    first = draw(st.booleans())

    def build(network: Any, trt: Any, tensors: list[Any]) -> Any:
        layer = network.add_shuffle(tensors[source])
        if first:
            layer.first_transpose = trt.Permutation(order)
        else:
            layer.second_transpose = trt.Permutation(order)
        return made(layer)

    sketch = Sketch(x.type_name, tuple(x.dims[axis] for axis in order), x.magnitude, x.error)
    drawn.add(f"transpose(t{source}, {order})", sketch, build)


def reshape(draw: Callable[..., Any], drawn: Drawn, source: int) -> None:
    """Merge two neighbouring dimensions or split one; the new shape given statically or computed."""
    x = drawn.sketches[source]
    dims = list(x.dims)
    if len(dims) > 1 and draw(st.booleans()):
        at = draw(st.integers(0, len(dims) - 2))
        (k, p), (m, q) = dims[at : at + 2]
        dims[at : at + 2] = [(k * m, p + q)]
    else:
        at = draw(st.integers(0, len(dims) - 1))
        k, p = dims[at]
        factor = draw(st.sampled_from([f for f in range(1, k + 1) if k % f == 0]))
        dims[at : at + 1] = [(k // factor, p), (factor, 0)]
    sketch = Sketch(x.type_name, tuple(dims[:6]), x.magnitude, x.error)
    if len(dims) > 5:
        return
    computed = x.dynamic and draw(st.booleans())

    def build(network: Any, trt: Any, tensors: list[Any]) -> Any:
        layer = network.add_shuffle(tensors[source])
        if computed:
            layer.set_input(1, _computed_shape(network, trt, tensors[source], x, sketch.dims))
            layer.zero_is_placeholder = False
        else:
            layer.reshape_dims = sketch.declared
        return made(layer)

    drawn.add(f"reshape(t{source}, {sketch.declared}{', computed' if computed else ''})", sketch, build)


def _computed_shape(network: Any, trt: Any, tensor: Any, sketch: Sketch, wanted: tuple[Dim, ...]) -> Any:
    """The dims as a shape tensor: n is read off the tensor's own shape, then scaled and powered."""
    axis = next(i for i, (_, p) in enumerate(sketch.dims) if p)
    shape = made(network.add_shape(tensor))
    length = made(network.add_slice(shape, (axis,), (1,), (1,)))
    ops = trt.ElementWiseOperation
    divisor = constant(network, trt, np.array([sketch.dims[axis][0]]), "INT64")
    n = made(network.add_elementwise(length, divisor, ops.FLOOR_DIV))
    parts = []
    for k, p in wanted:
        part = constant(network, trt, np.array([k]), "INT64")
        parts.append(made(network.add_elementwise(n, part, ops.PROD)) if p else part)
    return made(network.add_concatenation(parts))


def concatenate(draw: Callable[..., Any], drawn: Drawn, source: int) -> None:
    x = drawn.sketches[source]
    axis = draw(st.integers(0, len(x.dims) - 1))

    def joins(other: Sketch) -> bool:
        same = [a == b for i, (a, b) in enumerate(zip(x.dims, other.dims, strict=False)) if i != axis]
        return (
            other.type_name == x.type_name
            and len(other.dims) == len(x.dims)
            and all(same)
            and other.dims[axis][1] == x.dims[axis][1]
        )

    other = draw(st.sampled_from([i for i, sketch in enumerate(drawn.sketches) if joins(sketch)]))
    y = drawn.sketches[other]
    dims = list(x.dims)
    dims[axis] = (x.dims[axis][0] + y.dims[axis][0], x.dims[axis][1])

    def build(network: Any, trt: Any, tensors: list[Any]) -> Any:
        layer = network.add_concatenation([tensors[source], tensors[other]])
        layer.axis = axis
        return made(layer)

    sketch = Sketch(x.type_name, tuple(dims), max(x.magnitude, y.magnitude), max(x.error, y.error))
    if math.prod(sketch.shape(LENGTHS[0])) <= MOST_ELEMENTS:
        drawn.add(f"concatenate(t{source}, t{other}, {axis})", sketch, build)


def cut(draw: Callable[..., Any], drawn: Drawn, source: int) -> None:
    """A slice with any mode; of a dynamic dimension all, or a fixed number, which not every run may have."""
    x = drawn.sketches[source]
    mode = draw(st.sampled_from(["STRICT_BOUNDS", "FILL", "CLAMP", "WRAP", "REFLECT"]))
    start, size, stride = [], [], []
    for k, p in x.dims:
        if p and not draw(st.booleans()):
            start.append(0)
            size.append((k, p))
            stride.append(1)
            continue
        k *= LENGTHS[0] ** p
        if mode == "STRICT_BOUNDS":
            step = draw(st.sampled_from([-1, 1, 2]))
            first = draw(st.integers(0, k - 1))
            room = first + 1 if step < 0 else (k - first + step - 1) // step
            rule = (first, (draw(st.integers(1, room)), 0), step)
        else:
            rule = (draw(st.integers(-4, 4)), (draw(st.integers(1, 6)), 0), draw(st.integers(-2, 3)))
        start.append(rule[0])
        size.append(rule[1])
        stride.append(rule[2])
    sketch = Sketch(x.type_name, tuple(size), x.magnitude, x.error)

    def build(network: Any, trt: Any, tensors: list[Any]) -> Any:
        plain = tuple(1 if p else k for k, p in size)
        layer = network.add_slice(tensors[source], start, plain, stride)
        if sketch.dynamic:
            layer.set_input(2, _computed_shape(network, trt, tensors[source], x, sketch.dims))
        layer.mode = getattr(trt.SampleMode, mode)
        return made(layer)

    if math.prod(sketch.shape(LENGTHS[0])) <= MOST_ELEMENTS:
        drawn.add(f"slice(t{source}, {start}, {sketch.declared}, {stride}, {mode})", sketch, build)


def pick(draw: Callable[..., Any], drawn: Drawn, source: int) -> None:
    """Gather along a static axis with constant indices."""
    x = drawn.sketches[source]
    axes = [axis for axis, (_, p) in enumerate(x.dims) if not p]
    if not axes:
        return
    axis = draw(st.sampled_from(axes))
    length = x.dims[axis][0]
    chosen = draw(st.lists(st.integers(0, length - 1), min_size=1, max_size=4))
    scalar = len(x.dims) > 1 and draw(st.booleans())
    index = np.array(chosen[0] if scalar else chosen)
    dims = [*x.dims[:axis], *([] if scalar else [(len(chosen), 0)]), *x.dims[axis + 1 :]]

    def build(network: Any, trt: Any, tensors: list[Any]) -> Any:
        return made(network.add_gather(tensors[source], constant(network, trt, index, "INT32"), axis))

    drawn.add(
        f"gather(t{source}, {index.tolist()}, {axis})",
        Sketch(x.type_name, tuple(dims), x.magnitude, x.error),
        build,
    )


def reduce(draw: Callable[..., Any], drawn: Drawn, source: int) -> None:
    x = drawn.sketches[source]
    axes = [axis for axis, (_, p) in enumerate(x.dims) if not p]
    if not axes:
        return
    chosen = draw(st.lists(st.sampled_from(axes), min_size=1, unique=True))
    op = draw(st.sampled_from(["SUM", "MAX", "MIN", *(["AVG"] if _floating(x) else [])]))
    keep = draw(st.booleans()) or len(chosen) == len(x.dims)
    count = math.prod(x.dims[axis][0] for axis in chosen)
    grows = count if op == "SUM" else 1
    dims = [(1, 0) if i in chosen else d for i, d in enumerate(x.dims) if keep or i not in chosen]
    sketch = Sketch(x.type_name, tuple(dims), x.magnitude * grows, x.error * grows).rounded()
    if sketch.magnitude > MOST_MAGNITUDE:
        return
    mask = sum(1 << axis for axis in chosen)

    def build(network: Any, trt: Any, tensors: list[Any]) -> Any:
        return made(network.add_reduce(tensors[source], getattr(trt.ReduceOperation, op), mask, keep))

    drawn.add(f"reduce {op}(t{source}, {chosen}, keep={keep})", sketch, build)


def softmax(draw: Callable[..., Any], drawn: Drawn, source: int) -> None:
    x = drawn.sketches[source]
    axis = draw(st.integers(0, len(x.dims) - 1))
    sketch = Sketch(x.type_name, x.dims, 1.0, min(1.0, 2 * x.error)).rounded()

    def build(network: Any, trt: Any, tensors: list[Any]) -> Any:
        layer = network.add_softmax(tensors[source])
        layer.axes = 1 << axis
        return made(layer)

    drawn.add(f"softmax(t{source}, {axis})", sketch, build)


def normalise(draw: Callable[..., Any], drawn: Drawn, source: int) -> None:
    """Over the last dimension, with an epsilon large enough to bound how errors grow."""
    x = drawn.sketches[source]
    width = x.dims[-1][0]
    shape = (1,) * (len(x.dims) - 1) + (width,)
    epsilon = 0.25
    slope = 2 / math.sqrt(epsilon) + x.magnitude / epsilon
    sketch = Sketch(x.type_name, x.dims, math.sqrt(width) * 2 + 1, 2 * slope * x.error).rounded().rounded()

    def build(network: Any, trt: Any, tensors: list[Any]) -> Any:
        scale = constant(network, trt, np.linspace(0.5, 2.0, width).reshape(shape), x.type_name)
        bias = constant(network, trt, np.linspace(-1.0, 1.0, width).reshape(shape), x.type_name)
        layer = network.add_normalization(tensors[source], scale, bias, 1 << (len(x.dims) - 1))
        layer.epsilon = epsilon
        return made(layer)

    drawn.add(f"normalise(t{source})", sketch, build)


def multiply(draw: Callable[..., Any], drawn: Drawn, source: int) -> None:
    """A product with a constant matrix over the last dimension, its rows of absolute sum one."""
    x = drawn.sketches[source]
    width, out = x.dims[-1][0], draw(st.sampled_from([1, 2, 3, 5]))
    transposed = draw(st.booleans())
    lead = (1,) * (len(x.dims) - 2)
    weights = rng("weights", width, out).choice([-1.0, -0.5, 0.5, 1.0], (out, width)) / (
        2 ** math.ceil(math.log2(width))
    )
    sketch = Sketch(
        x.type_name, (*x.dims[:-1], (out, 0)), x.magnitude, x.error + UNIT["FLOAT"] * x.magnitude
    ).rounded()

    def build(network: Any, trt: Any, tensors: list[Any]) -> Any:
        matrix = weights if transposed else weights.T
        operand = constant(network, trt, matrix.reshape(*lead, *matrix.shape), x.type_name)
        ops = trt.MatrixOperation
        op = ops.TRANSPOSE if transposed else ops.NONE
        return made(network.add_matrix_multiply(tensors[source], ops.NONE, operand, op))

    drawn.add(f"matmul(t{source}, {(out, width) if transposed else (width, out)})", sketch, build)


def count_up(draw: Callable[..., Any], drawn: Drawn, source: int) -> None:
    """A fill of the tensor's own shape."""
    x = drawn.sketches[source]
    type_name = draw(st.sampled_from(["FLOAT", "INT32", "INT64"]))

    def build(network: Any, trt: Any, tensors: list[Any]) -> Any:
        layer = network.add_fill((1,) * len(x.dims), trt.FillOperation.LINSPACE, dtype(trt, type_name))
        layer.set_input(0, made(network.add_shape(tensors[source])))
        layer.set_input(1, constant(network, trt, np.array(-1), type_name))
        layer.set_input(2, constant(network, trt, np.arange(len(x.dims)), type_name))
        return made(layer)

    reach = 1 + sum(i * k * LENGTHS[0] ** p for i, (k, p) in enumerate(x.dims))
    drawn.add(f"fill like t{source}", Sketch(type_name, x.dims, float(reach)).rounded(), build)


def relate(draw: Callable[..., Any], drawn: Drawn, source: int) -> None:
    """x x^T / width: a product of two tensors, as attention has it."""
    x = drawn.sketches[source]
    (rows, _), (width, _) = x.dims[-2:]
    magnitude, error = x.magnitude**2, 2 * x.magnitude * x.error + UNIT["FLOAT"] * x.magnitude**2
    dims = (*x.dims[:-2], (rows, 0), (rows, 0))
    if magnitude > MOST_MAGNITUDE:
        return

    def build(network: Any, trt: Any, tensors: list[Any]) -> Any:
        ops = trt.MatrixOperation
        product = made(network.add_matrix_multiply(tensors[source], ops.NONE, tensors[source], ops.TRANSPOSE))
        # A power of two, so that the factor itself is exact in every type.
        factor = np.full((1,) * len(dims), 2.0 ** -math.ceil(math.log2(width)))
        scale = constant(network, trt, factor, x.type_name)
        return made(network.add_elementwise(product, scale, trt.ElementWiseOperation.PROD))

    # The product before scaling is up to `width` times as large, and so is the error of rounding it.
    unscaled = Sketch(x.type_name, dims, magnitude * 2, error * 2).rounded()
    if x.type_name != "HALF" or width * magnitude < 3e4:
        sketch = Sketch(x.type_name, dims, unscaled.magnitude, unscaled.error).rounded()
        drawn.add(f"relate(t{source})", sketch, build)


def ratio(draw: Callable[..., Any], drawn: Drawn, source: int) -> None:
    """a / (1 + |b|)."""
    a = drawn.sketches[source]
    partners = [i for i, b in enumerate(drawn.sketches) if b.type_name == a.type_name and b.dims == a.dims]
    other = draw(st.sampled_from(partners))
    b = drawn.sketches[other]
    below = Sketch(b.type_name, b.dims, b.magnitude, b.error).rounded()
    below = Sketch(b.type_name, b.dims, below.magnitude + 1, below.error).rounded()
    # d(a / c) is at most |da| + |a| |dc| for c >= 1, and c cannot fall below 1 - its error.
    error = (a.error + a.magnitude * below.error) / max(1 - below.error, 0.1) ** 2
    sketch = Sketch(a.type_name, a.dims, a.magnitude, error).rounded()

    def build(network: Any, trt: Any, tensors: list[Any]) -> Any:
        ops = trt.ElementWiseOperation
        size = made(network.add_unary(tensors[other], trt.UnaryOperation.ABS))
        one = constant(network, trt, np.ones((1,) * len(a.dims)), a.type_name)
        divisor = made(network.add_elementwise(one, size, ops.SUM))
        return made(network.add_elementwise(tensors[source], divisor, ops.DIV))

    if below.error < 0.5:
        drawn.add(f"t{source} / (1 + |t{other}|)", sketch, build)


def reverse(draw: Callable[..., Any], drawn: Drawn, source: int) -> None:
    """The dynamic dimension back to front: a gather by indices that are counted and subtracted at run time."""
    x = drawn.sketches[source]
    axis = next(i for i, (_, p) in enumerate(x.dims) if p)

    def build(network: Any, trt: Any, tensors: list[Any]) -> Any:
        shape = made(network.add_shape(tensors[source]))
        length = made(network.add_slice(shape, (axis,), (1,), (1,)))
        fill = network.add_fill((1,), trt.FillOperation.LINSPACE, trt.int64)
        fill.set_input(0, length)
        fill.set_input(1, constant(network, trt, np.array(1), "INT64"))
        fill.set_input(2, constant(network, trt, np.array([1]), "INT64"))
        indices = made(network.add_elementwise(length, made(fill), trt.ElementWiseOperation.SUB))
        return made(network.add_gather(tensors[source], indices, axis))

    drawn.add(f"reverse(t{source}, {axis})", x, build)


def _any(sketch: Sketch) -> bool:
    return True


def _number(sketch: Sketch) -> bool:
    return sketch.type_name != "BOOL"


def _vector_last(sketch: Sketch) -> bool:
    return _floating(sketch) and sketch.dims[-1][1] == 0


# name -> which tensors it takes, the step itself (which may decide to add nothing)
STEPS: dict[str, tuple[Callable[[Sketch], bool], Callable[[Callable[..., Any], Drawn, int], None]]] = {
    "activation": (_floating, activation),
    "unary": (_number, unary),
    "binary": (_number, binary),
    "choose": (_integer, choose),
    "cast": (_number, cast),
    "transpose": (_any, transpose),
    "reshape": (_any, reshape),
    "concatenate": (_any, concatenate),
    "cut": (_any, cut),
    "pick": (_any, pick),
    "reduce": (_number, reduce),
    "softmax": (_floating, softmax),
    "normalise": (lambda s: _vector_last(s) and len(s.dims) > 1, normalise),
    "multiply": (lambda s: _vector_last(s) and len(s.dims) > 1, multiply),
    "relate": (lambda s: _floating(s) and len(s.dims) > 1 and not any(p for _, p in s.dims[-2:]), relate),
    "ratio": (_floating, ratio),
    "reverse": (lambda s: s.dynamic, reverse),
    "count_up": (_any, count_up),
}
# Drawn twice as often as the rest, since few tensors fit them.
OFTEN = ("binary", "multiply", "normalise", "relate")
