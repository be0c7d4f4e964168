"""Networks of layers over spatial dimensions: convolution, deconvolution, pooling, padding, scale, parametric ReLU."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from zoo.case import _ALIVE, FLOATS, Case, Feed, constant, dtype, made, mark, sample

Shape = tuple[int, ...]


def images(type_name: str, shape: Shape, lengths: Sequence[int], domain: str = "normal") -> list[Feed]:
    """Feeds of one input x whose lengths of -1 take each of the lengths in turn."""
    shapes = [tuple(n if d == -1 else d for d in shape) for n in lengths]
    return [{"x": sample("x", type_name, one, domain)} for one in shapes]


def weights(trt: Any, seed: str, type_name: str, count: int, domain: str = "normal") -> Any:
    """Weights by address, which is how TensorRT takes those of every type."""
    array = sample(seed, type_name, (count,), domain)
    _ALIVE.append(array)
    return trt.Weights(dtype(trt, type_name), array.ctypes.data, array.size)


def convolution(
    name: str,
    shape: Shape,
    maps: int,
    size: Shape,
    *,
    kind: str = "convolution",
    type_name: str = "FLOAT",
    lengths: Sequence[int] = (5, 8),
    inputs: bool = False,
    bias: bool = True,
    **attributes: Any,
) -> Case:
    """kind: convolution or deconvolution; inputs: kernel and bias are tensors; attributes: set on the layer."""
    groups = attributes.get("num_groups", 1)
    first, second = (maps, shape[1]) if kind == "convolution" else (shape[1], maps)
    kernel = (first, second // groups, *size)

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", dtype(trt, type_name), shape)
        add = getattr(network, f"add_{kind}_nd")
        own = [trt.Weights(dtype(trt, type_name)), None]
        if not inputs:
            own = [weights(trt, "kernel", type_name, int(np.prod(kernel)))]
            own += [weights(trt, "bias", type_name, maps) if bias else None]
        layer = add(x, maps, size, *own)
        made(layer)
        for attribute, value in attributes.items():
            setattr(
                layer, attribute, getattr(trt.PaddingMode, value) if attribute == "padding_mode" else value
            )
        if inputs:
            layer.set_input(1, network.add_input("w", dtype(trt, type_name), kernel))
            layer.set_input(2, constant(network, trt, sample("bias", type_name, (maps,)), type_name))
        mark(network, layer.get_output(0))

    def feeds() -> list[Feed]:
        extra = {"w": sample("kernel", type_name, kernel)} if inputs else {}
        return [dict(feed) | extra for feed in images(type_name, shape, lengths)]

    return Case(name=f"{kind}-{name}-{type_name}", define=define, feeds=feeds, narrowest=type_name)


def pooling(
    name: str,
    kind: str,
    shape: Shape,
    size: Shape,
    *,
    type_name: str = "FLOAT",
    lengths: Sequence[int] = (6, 10),
    **attributes: Any,
) -> Case:
    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", dtype(trt, type_name), shape)
        layer = network.add_pooling_nd(x, getattr(trt.PoolingType, kind), size)
        made(layer)
        for attribute, value in attributes.items():
            setattr(
                layer, attribute, getattr(trt.PaddingMode, value) if attribute == "padding_mode" else value
            )
        mark(network, layer.get_output(0))

    return Case(
        name=f"pooling-{kind}-{name}-{type_name}",
        define=define,
        feeds=lambda: images(type_name, shape, lengths),
        narrowest=type_name,
    )


def padding(type_name: str, pre: Shape, post: Shape) -> Case:
    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", dtype(trt, type_name), (2, -1, 3, -1))
        mark(network, made(network.add_padding_nd(x, pre, post)))

    return Case(
        name=f"padding-{'_'.join(map(str, (*pre, *post)))}-{type_name}",
        define=define,
        feeds=lambda: images(type_name, (2, -1, 3, -1), (3, 5)),
        narrowest=type_name if type_name in FLOATS else "FLOAT",
    )


def scale(mode: str, parts: str, *, type_name: str = "FLOAT", axis: int | None = None) -> Case:
    """parts: which of scale, shift and power there are, by their first two letters."""
    shape = (-1, 3, 2, 4)
    start = 1 if axis is None else axis
    counts = {"UNIFORM": 1, "CHANNEL": shape[start], "ELEMENTWISE": int(np.prod(shape[start:]))}

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", dtype(trt, type_name), shape)
        given = {
            one: weights(trt, one, type_name, counts[mode], "positive")
            for one in ("shift", "scale", "power")
            if one[:2] in parts
        }
        add = network.add_scale if axis is None else network.add_scale_nd
        layer = add(
            x, getattr(trt.ScaleMode, mode), **given, **({} if axis is None else {"channel_axis": axis})
        )
        mark(network, made(layer))

    return Case(
        name=f"scale-{mode}-{parts or 'nothing'}-{start}-{type_name}",
        define=define,
        feeds=lambda: images(type_name, shape, (2, 0), "positive"),
        narrowest=type_name,
    )


def parametric_relu(type_name: str, slopes: Shape) -> Case:
    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", dtype(trt, type_name), (-1, 3, 4))
        slope = constant(network, trt, sample("slope", type_name, slopes), type_name)
        mark(network, made(network.add_parametric_relu(x, slope)))

    return Case(
        name=f"parametric-relu-{'x'.join(map(str, slopes))}-{type_name}",
        define=define,
        feeds=lambda: images(type_name, (-1, 3, 4), (2, 0)),
        narrowest=type_name,
    )


def _convolutions() -> Iterator[Case]:
    for type_name in FLOATS:
        yield convolution("plain", (-1, 4, 6, 5), 6, (3, 2), type_name=type_name, lengths=(2, 1, 0))
        yield convolution(
            "kernel-input", (2, 4, -1, -1), 6, (3, 3), type_name=type_name, inputs=True, padding_nd=(1, 1)
        )
        yield convolution(
            "plain", (-1, 4, 3, 5), 6, (3, 2), kind="deconvolution", type_name=type_name, stride_nd=(2, 3)
        )
    every = {
        "stride_nd": (2, 3),
        "dilation_nd": (2, 1),
        "num_groups": 2,
        "pre_padding": (1, 0),
        "post_padding": (2, 3),
    }
    yield convolution("everything", (2, 4, -1, -1), 6, (2, 3), **every)
    yield convolution("depthwise", (2, 4, -1, 7), 4, (3, 3), num_groups=4, bias=False)
    yield convolution(
        "rounded-up", (2, 4, -1, -1), 2, (3, 2), stride_nd=(4, 3), padding_mode="EXPLICIT_ROUND_UP"
    )
    yield convolution("three", (1, 2, -1, 4, 5), 3, (2, 3, 2), padding_nd=(1, 1, 0), stride_nd=(1, 2, 1))
    yield convolution(
        "one", (2, 3, -1, 1), 5, (4, 1), stride_nd=(2, 2), dilation_nd=(1, 2), padding_nd=(2, 0)
    )
    yield convolution("large", (1, 16, -1, 5), 24, (3, 3), padding_nd=(1, 1))
    for mode in ("SAME_UPPER", "SAME_LOWER"):
        same = {"padding_mode": mode, "pre_padding": (9, 9)}
        yield convolution(f"{mode}-static", (2, 2, 7, 8), 3, (4, 3), stride_nd=(3, 2), lengths=(1,), **same)
        yield convolution(f"{mode}-dynamic", (2, 2, -1, -1), 3, (4, 3), stride_nd=(3, 2), **same)
        yield convolution(f"{mode}-dilated", (2, 2, -1, -1), 3, (2, 3), dilation_nd=(3, 2), **same)
        yield convolution(f"{mode}-small", (2, 2, -1, 7), 3, (1, 2), stride_nd=(3, 3), **same)
        yield convolution(mode, (2, 2, -1, 3), 3, (4, 2), kind="deconvolution", stride_nd=(2, 3), **same)
    yield convolution("everything", (2, 4, -1, -1), 6, (2, 3), kind="deconvolution", **every)
    yield convolution(
        "kernel-input", (2, 4, -1, 3), 6, (3, 3), kind="deconvolution", inputs=True, num_groups=2
    )
    yield convolution("three", (1, 2, -1, 2, 3), 3, (2, 3, 2), kind="deconvolution", stride_nd=(2, 1, 2))


def _poolings() -> Iterator[Case]:
    for kind in ("MAX", "AVERAGE", "MAX_AVERAGE_BLEND"):
        more = {"blend_factor": 0.3} if kind == "MAX_AVERAGE_BLEND" else {}
        for type_name in FLOATS:
            yield pooling("plain", kind, (-1, 2, 5, 7), (2, 3), type_name=type_name, lengths=(2, 0), **more)
        yield pooling("padded", kind, (2, 2, -1, -1), (3, 4), pre_padding=(1, 3), post_padding=(2, 1), **more)
        yield pooling(
            "three", kind, (2, 2, -1, 4, 5), (2, 3, 2), stride_nd=(2, 1, 2), padding_nd=(1, 0, 1), **more
        )
        for mode in ("SAME_UPPER", "SAME_LOWER", "EXPLICIT_ROUND_UP"):
            window = {"stride_nd": (3, 2), "padding_nd": (1, 1), "padding_mode": mode}
            yield pooling(mode, kind, (2, 2, -1, -1), (3, 4), **window, **more)
            if kind == "AVERAGE":
                counting = {"average_count_excludes_padding": False}
                yield pooling(f"{mode}-all", kind, (2, 2, -1, -1), (3, 4), **window, **counting)
                yield pooling(
                    f"{mode}-static", kind, (2, 2, 7, 6), (3, 4), lengths=(1,), **window, **counting
                )
    yield pooling(
        "padded-all",
        "AVERAGE",
        (2, 2, -1, -1),
        (3, 4),
        padding_nd=(2, 3),
        average_count_excludes_padding=False,
    )


def cases() -> Iterator[Case]:
    yield from _convolutions()
    yield from _poolings()
    for type_name in (*FLOATS, "INT32", "INT64"):
        yield padding(type_name, (-1, 3), (2, -2))
    yield padding("FLOAT", (0, 2), (1, 0))
    for mode in ("UNIFORM", "CHANNEL", "ELEMENTWISE"):
        yield scale(mode, "sc sh po")
        yield scale(mode, "sh", axis=2)
    for type_name in ("HALF", "BF16"):
        yield scale("CHANNEL", "sc sh po", type_name=type_name, axis=3)
    yield scale("UNIFORM", "")
    for type_name in FLOATS:
        yield parametric_relu(type_name, (1, 3, 1))
    yield parametric_relu("FLOAT", (1, 1, 4))
