"""Networks that resize: every mode, transformation, rounding and selector, with lengths from everywhere."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from zoo.case import FLOATS, Case, Feed, constant, dtype, made, mark, sample
from zoo.spatial import images

MODES = ("NEAREST", "LINEAR", "CUBIC")
TRANSFORMATIONS = ("ALIGN_CORNERS", "ASYMMETRIC", "HALF_PIXEL")
ROUNDINGS = ("HALF_UP", "HALF_DOWN", "FLOOR", "CEIL")


def configured(layer: Any, trt: Any, settings: dict[str, Any]) -> Any:
    """Sets enumerations by name, and other attributes as they are."""
    enums = {
        "resize_mode": trt.InterpolationMode,
        "coordinate_transformation": trt.ResizeCoordinateTransformation,
        "nearest_rounding": trt.ResizeRoundMode,
        "selector_for_single_pixel": trt.ResizeSelector,
    }
    for name, value in settings.items():
        setattr(layer, name, getattr(enums[name], value) if name in enums else value)
    return layer


def resize(
    name: str,
    declared: tuple[int, ...],
    *,
    type_name: str = "FLOAT",
    lengths: Sequence[int] = (5, 7),
    **settings: Any,
) -> Case:
    def define(network: Any, trt: Any) -> None:
        layer = network.add_resize(network.add_input("x", dtype(trt, type_name), declared))
        made(layer)
        mark(network, configured(layer, trt, settings).get_output(0))

    return Case(
        name=f"resize-{name}-{type_name}",
        define=define,
        feeds=lambda: images(type_name, declared, lengths),
        narrowest=type_name,
    )


def like_another(mode: str, index_type: str) -> Case:
    """To the last lengths of another input, by a shape tensor."""

    def define(network: Any, trt: Any) -> None:
        x = network.add_input("x", trt.float32, (-1, 2, -1, -1))
        other = network.add_input("other", trt.float32, (-1, -1))
        layer = network.add_resize(x)
        made(layer)
        first = made(network.add_slice(made(network.add_shape(x)), (0,), (2,), (1,)))
        joined = network.add_concatenation([first, made(network.add_shape(other))])
        joined.axis = 0
        layer.set_input(1, made(network.add_cast(made(joined), dtype(trt, index_type))))
        settings = {"resize_mode": mode, "coordinate_transformation": "HALF_PIXEL"}
        mark(network, configured(layer, trt, settings).get_output(0))

    def feeds() -> list[Feed]:
        pairs = [
            ((2, 2, 4, 5), (7, 3)),
            ((1, 2, 3, 3), (1, 6)),
            ((0, 2, 3, 3), (2, 3)),
            ((1, 2, 3, 2), (0, 2)),
        ]
        return [
            {"x": sample("x", "FLOAT", one), "other": np.zeros(other, np.float32)} for one, other in pairs
        ]

    return Case(name=f"resize-like-another-{mode}-{index_type}", define=define, feeds=feeds)


def by_values() -> Case:
    """To lengths that are the values of a network input."""

    def define(network: Any, trt: Any) -> None:
        layer = network.add_resize(network.add_input("x", trt.float32, (2, -1, 4)))
        made(layer)
        layer.set_input(1, network.add_input("lengths", trt.int32, (3,)))
        mark(network, configured(layer, trt, {"resize_mode": "LINEAR"}).get_output(0))

    def feeds() -> list[Feed]:
        return [
            {"x": sample("x", "FLOAT", (2, n, 4)), "lengths": np.array(wanted, np.int32)}
            for n, wanted in ((3, (2, 5, 8)), (4, (1, 4, 2)))
        ]

    return Case(name="resize-by-values", define=define, feeds=feeds, shape_inputs=frozenset({"lengths"}))


def by_constant() -> Case:
    def define(network: Any, trt: Any) -> None:
        layer = network.add_resize(network.add_input("x", trt.float32, (2, -1, 4)))
        made(layer)
        layer.set_input(1, constant(network, trt, [2, 3, 6], "INT64"))
        mark(network, layer.get_output(0))

    return Case(name="resize-by-constant", define=define, feeds=lambda: images("FLOAT", (2, -1, 4), (3, 5)))


def cases() -> Iterator[Case]:
    for mode in MODES:
        for transformation in TRANSFORMATIONS:
            settings = {"resize_mode": mode, "coordinate_transformation": transformation}
            yield resize(
                f"up-{mode}-{transformation}", (2, 3, 4, 5), shape=(2, 3, 9, 8), lengths=(1,), **settings
            )
            yield resize(f"{mode}-{transformation}", (2, 1, -1, -1), shape=(2, 1, 3, 12), **settings)
            yield resize(
                f"scales-{mode}-{transformation}", (-1, 2, -1, 7), scales=(1, 1, 1.7, 0.5), **settings
            )
        for type_name in FLOATS:
            yield resize(
                f"plain-{mode}", (-1, 1, 3, 3), scales=(1, 1, 2, 3), type_name=type_name, resize_mode=mode
            )
    for rounding in ROUNDINGS:
        for transformation in TRANSFORMATIONS:
            settings = {"nearest_rounding": rounding, "coordinate_transformation": transformation}
            yield resize(f"{rounding}-{transformation}", (1, -1, -1), shape=(1, 4, 15), **settings)
    for selector in ("FORMULA", "UPPER"):
        for transformation in TRANSFORMATIONS:
            settings = {"selector_for_single_pixel": selector, "coordinate_transformation": transformation}
            yield resize(
                f"single-{selector}-{transformation}",
                (2, -1, 5),
                shape=(2, 1, 1),
                resize_mode="LINEAR",
                **settings,
            )
        yield resize(f"single-{selector}", (2, -1), scales=(1, 0.2), selector_for_single_pixel=selector)
    outside = {"exclude_outside": True, "coordinate_transformation": "HALF_PIXEL"}
    for mode in ("LINEAR", "CUBIC"):
        yield resize(f"outside-{mode}", (2, -1, 3), shape=(2, 9, 7), resize_mode=mode, **outside)
        yield like_another(mode, "INT64")
    yield resize("coefficient", (2, -1, 3), shape=(2, 9, 7), resize_mode="CUBIC", cubic_coeff=-0.5)
    yield resize("all-dimensions", (2, 3, 2, 2, 3), shape=(3, 2, 4, 3, 3), lengths=(1,))
    yield resize("three-of-five", (2, 1, -1, 2, 3), shape=(2, 1, 4, 3, 5), resize_mode="LINEAR")
    yield like_another("NEAREST", "INT32")
    yield by_values()
    yield by_constant()
