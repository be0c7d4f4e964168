"""Figures as PNG, drawn by matplotlib without its global state: heat maps, lines and bars, in light and in dark.

Colours can be told apart without red and green: viridis for magnitudes, a diverging map with 0 in its middle for
values on both sides, and for lines the palette of Okabe and Ito ("Color Universal Design", 2008) with a marker each.
"""

from __future__ import annotations

import importlib.util
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trtllm_ext.analysis.report import items
from trtllm_ext.analysis.report.labels import FONT, POINTS, SMALL_FONT, ems, one_line, ticks_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WAY_OUT = "Figures need matplotlib: `pip install 'trtllm-ext[analysis]'`."

_DPI = 128
_WIDEST = 11.3  # inches, so that a page on a usual screen shows it whole
_MOST_MARKED, _MOST_NAMED, _MOST_ANNOTATED = 40, 8, 160
_PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#7f7f7f")
_MARKERS = "osD^vP*X"


@dataclass(frozen=True)
class Theme:
    """Colours that fit a page: of the paper, of text, of grid lines, of cells without a value."""

    paper: str
    ink: str
    grid: str
    empty: str
    diverging: str


THEMES = (
    Theme("#ffffff", "#24292f", "#d8dee4", "#c9ced6", "RdBu_r"),
    Theme("#161b22", "#d6dde5", "#30363d", "#4a525d", "berlin"),
)


@dataclass(frozen=True)
class Image:
    """A PNG, and the inches that it is meant to be shown at."""

    png: bytes
    width: float
    height: float


def available() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(item: items.Figure, theme: Theme) -> Image:
    """The figure of an item. The same item gives the same bytes under the same matplotlib."""
    with _matplotlib_as_delivered():
        match item:
            case items.HeatMap():
                figure = _heat_map(item, theme)
            case items.Lines():
                figure = _lines(item, theme)
            case items.Bars():
                figure = _bars(item, theme)
        return _image(figure, item, theme)


@contextmanager
def _matplotlib_as_delivered() -> Iterator[None]:
    """Without the user's own settings, and silent about characters that the font has no picture of."""
    import matplotlib

    defaults = {key: value for key, value in matplotlib.rcParamsDefault.items() if "backend" not in key}
    with matplotlib.rc_context(defaults), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def _image(figure: Figure, item: items.Figure, theme: Theme) -> Image:
    """256 colours are as many as a colour map has, and take a third of the bytes of 16 million."""
    from PIL import Image as Pixels
    from PIL.PngImagePlugin import PngInfo

    figure.set_facecolor(theme.paper)
    figure.set_dpi(_DPI)
    figure.canvas.draw()
    pixels = Pixels.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3].copy())  # type: ignore[attr-defined]
    about = PngInfo()
    about.add_itxt("Title", item.name)
    about.add_itxt("Description", item.caption)
    buffer = io.BytesIO()
    few = pixels.quantize(256, Pixels.Quantize.MAXCOVERAGE, dither=Pixels.Dither.NONE)
    few.save(buffer, "png", optimize=True, pnginfo=about)
    width, height = figure.get_size_inches()
    return Image(buffer.getvalue(), float(width), float(height))


def _axes(size: tuple[float, float], margins: tuple[float, float, float, float], theme: Theme) -> Axes:
    """Axes of `size` inches with left, right, bottom, top inches around them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    left, right, bottom, top = margins
    width, height = size[0] + left + right, size[1] + bottom + top
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    axes: Axes = figure.add_axes((left / width, bottom / height, size[0] / width, size[1] / height))
    axes.set_facecolor(theme.paper)
    axes.tick_params(which="both", colors=theme.ink, labelsize=FONT, length=2.5)
    for spine in axes.spines.values():
        spine.set_color(theme.grid)
    return axes


def _label(axes: Axes, x: str, y: str, theme: Theme) -> None:
    axes.set_xlabel(x, color=theme.ink, fontsize=FONT + 1, parse_math=False)
    axes.set_ylabel(y, color=theme.ink, fontsize=FONT + 1, parse_math=False)


def _heat_map(item: items.HeatMap, theme: Theme) -> Figure:
    num_rows, num_columns = item.values.shape
    width = float(np.clip(0.32 * num_columns, 3.0, _WIDEST))
    height = float(np.clip(0.2 * num_rows, 1.0 if num_rows > 1 else 0.5, 14.0))
    rows, columns = ticks_of(item.rows, height), ticks_of(item.columns, width)
    upright = columns.extent > 0.9 * width / num_columns * columns.step
    below = (columns.extent if upright else 0.15) + 0.18 + 0.22 * bool(item.column_label)
    left = rows.extent + 0.2 + 0.22 * bool(item.row_label)
    axes = _axes((width, height), (left, 1.1, below, 0.12), theme)
    axes.set_facecolor(theme.empty)
    norm = _norm(item)
    image = axes.imshow(
        np.ma.masked_invalid(item.values.astype(np.float64)),
        aspect="auto",
        interpolation="nearest",
        cmap=theme.diverging if item.diverging else "viridis",
        norm=norm,
    )
    rows.put(axes, "y")
    columns.put(axes, "x", 90 if upright else 0)
    _label(axes, item.column_label, item.row_label, theme)
    _color_bar(axes, image, item, theme)
    if item.values.size <= _MOST_ANNOTATED:
        _annotate(axes, image, item.values)
    return axes.get_figure(root=True)  # type: ignore[return-value]


def _norm(item: items.HeatMap) -> Any:
    from matplotlib.colors import LogNorm, Normalize

    values = item.values[np.isfinite(item.values)].astype(np.float64)
    if item.log and (positive := values[values > 0]).size:
        return LogNorm(positive.min(), max(positive.max(), positive.min() * 1.001))
    if not values.size:
        return Normalize(0, 1)
    least, most = float(values.min()), float(values.max())
    if item.diverging:
        most = max(-least, most) or 1.0
        least = -most
    return Normalize(least, most if most > least else least + (abs(least) or 1.0) * 1e-3)


def _color_bar(axes: Axes, image: Any, item: items.HeatMap, theme: Theme) -> None:
    figure = axes.get_figure(root=True)
    assert figure is not None
    box, width = axes.get_position(), figure.get_size_inches()[0]
    inner = figure.add_axes((box.x1 + 0.12 / width, box.y0, 0.14 / width, box.height))
    bar = figure.colorbar(image, cax=inner)
    bar.set_label(item.unit, color=theme.ink, fontsize=FONT, parse_math=False)
    bar.ax.tick_params(which="both", colors=theme.ink, labelsize=FONT - 0.5, length=2)
    bar.outline.set_edgecolor(theme.grid)
    if not item.log:
        bar.formatter.set_powerlimits((-3, 4))  # type: ignore[attr-defined]
        bar.ax.yaxis.get_offset_text().set(color=theme.ink, fontsize=FONT - 0.5)


def _annotate(axes: Axes, image: Any, values: npt.NDArray[Any]) -> None:
    """The number in each cell, in black or white, whichever can be read there."""
    for (row, column), value in np.ndenumerate(values):
        if not np.isfinite(value) or image.norm(value) is np.ma.masked:
            continue
        red, green, blue, _ = image.cmap(image.norm(value))
        bright = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 > 0.18
        color = "black" if bright else "white"
        axes.text(column, row, short(value), ha="center", va="center", fontsize=SMALL_FONT, color=color)


def short(value: float) -> str:
    """A number in about five characters."""
    return "0" if value == 0 else f"{value:.2g}" if 1e-3 <= abs(value) < 10 else f"{value:.3g}"


def _lines(item: items.Lines, theme: Theme) -> Figure:
    named = _named(list(item.series))
    right = 0.5 + max(ems(one_line(name)) for name in named) * FONT / POINTS if len(item.series) > 1 else 0.2
    axes = _axes((6.6, 3.4), (0.85, right, 0.55, 0.2), theme)
    for index, (name, values) in enumerate(item.series.items()):
        style = _style(index, len(item.series), len(item.x))
        label = one_line(name) if name in named else "_"
        axes.plot(item.x, _drawable(values, item.log), label=label, linewidth=1.6, **style)
    if np.issubdtype(item.x.dtype, np.integer):
        axes.xaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]
    _finish(axes, item, item.x_label, len(item.series), theme)
    return axes.get_figure(root=True)  # type: ignore[return-value]


def _named(names: list[str]) -> list[str]:
    """Those that the legend shows: all, or evenly spaced ones from the first to the last."""
    if len(names) <= _MOST_NAMED:
        return names
    return [names[round(place)] for place in np.linspace(0, len(names) - 1, _MOST_NAMED)]


def _style(index: int, count: int, num_points: int) -> dict[str, Any]:
    """Few lines differ in colour and marker; many are shades, from the first to the last."""
    import matplotlib

    if count > _MOST_NAMED:
        return {"color": matplotlib.colormaps["viridis"](0.08 + 0.84 * index / (count - 1))}
    marker = {"marker": _MARKERS[index], "markersize": 4} if num_points <= _MOST_MARKED else {}
    return {"color": _PALETTE[index], **marker}


def _drawable(values: npt.NDArray[Any], log: bool) -> npt.NDArray[np.float64]:
    wide = values.astype(np.float64)
    return np.where(np.isfinite(wide) & ((wide > 0) | (not log)), wide, np.nan)


def _bars(item: items.Bars, theme: Theme) -> Figure:
    count, num_series = len(item.labels), len(item.series)
    width = float(np.clip(0.16 * count * (num_series + 1), 5.0, _WIDEST - 1))
    labels = ticks_of(item.labels or ("",), width)
    upright = labels.extent > 0.9 * width / max(count, 1) * labels.step
    named = [one_line(name) for name in item.series]
    right = 0.5 + max(map(ems, named)) * FONT / POINTS if num_series > 1 else 0.2
    below = (labels.extent if upright else 0.15) + 0.25
    axes = _axes((width, 3.2), (0.85, right, below, 0.2), theme)
    thickness = 0.8 / num_series
    for index, (name, values) in enumerate(item.series.items()):
        places = np.arange(count) + (index - (num_series - 1) / 2) * thickness
        color = _style(index, num_series, count)["color"]
        axes.bar(places, _drawable(values, item.log), thickness, color=color, label=one_line(name))
    labels.put(axes, "x", 90 if upright else 0)
    axes.margins(x=0.5 / max(count, 1) * 0.5)
    _finish(axes, item, "", num_series, theme)
    return axes.get_figure(root=True)  # type: ignore[return-value]


def _finish(axes: Axes, item: items.Lines | items.Bars, x_label: str, num_series: int, theme: Theme) -> None:
    """Grid, scale, labels and legend."""
    if item.log and any(np.nanmax(values, initial=0) > 0 for values in item.series.values()):
        axes.set_yscale("log")
    axes.grid(axis="y" if isinstance(item, items.Bars) else "both", color=theme.grid, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    _label(axes, x_label, item.y_label, theme)
    if num_series > 1:
        legend = axes.legend(
            loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.8, fontsize=FONT, frameon=False
        )
        for text in legend.get_texts():
            text.set(color=theme.ink, parse_math=False)
