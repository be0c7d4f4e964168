"""Reports: what is written, what is refused, that nothing else is touched, and that an interrupt leaves nothing."""

import json
import os
import re
import signal
import struct
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from safetensors.numpy import load_file

from trtllm_ext.analysis.report import Report, figures
from trtllm_ext.errors import AnalysisError, ConfigError

BUDGET_S = 5
pytestmark = pytest.mark.usefixtures("one_thread")

EVIL = "<script>alert('x')</script> & \"q\" $x_1$"
VALUES = np.array([[0.5, np.nan, -2.0], [1.0, np.inf, 3.25]], np.float32)


def small_report(title="A report"):
    report = Report(title, command=f"trtllm-ext stream report --sentences '{EVIL}'", facts={"model": EVIL})
    report.section(f"First {EVIL}")
    report.text(f"Words, `code <b>` and {EVIL}", "an odd ` backquote")
    rows = [(EVIL, np.int64(3), 0.25), ("b", None, float("nan")), ("c", 1000, -1e-9)]
    report.table("table", ["name", "count", "share"], rows, EVIL)
    report.section("Second")
    report.heat_map("map", VALUES, [EVIL, "r\n2"], ["the", "$", "日本"], EVIL, "cosine", True)
    return report


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    report = small_report()
    series = {"a": np.array([1, 2, 3]), EVIL: np.array([0.1, 0.0, np.nan])}
    report.lines("lines", np.arange(3), series, "layer", "share", "Lines.", log=True)
    report.bars("bars", ["x", "y"], {"one": [1.0, 2.0]}, "norm", "Bars.")
    report.arrays("raw.values", np.arange(6, dtype=np.float16).reshape(1, 2, 3))
    return report.write(tmp_path_factory.mktemp("report") / "out")


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def of(self, *tags):
        return [attributes for tag, attributes in self.tags if tag in tags]


def test_the_page_asks_nobody_and_escapes_all(written):
    text = (written / "report.html").read_text()
    page = Page(text)
    assert len(page.of("script")) == 1 and "<script>alert" not in text and "code &lt;b&gt;" in text
    for attributes in page.of("img", "source", "link", "a", "script", "iframe"):
        for key in ("src", "srcset", "href"):
            assert attributes.get(key, "#").startswith(("#", "data:image/png;base64,")), attributes
    assert not re.search(r"url\(|@import|https?://", text)
    (policy,) = (each["content"] for each in page.of("meta") if "http-equiv" in each)
    assert policy.startswith("default-src 'none'; img-src data:;") and "unsafe" not in policy
    targets = {each["href"] for each in page.of("a")}
    assert {f"#{each['id']}" for each in page.of("h2") if "id" in each} - {"#contents"} == targets
    assert len(page.of("img")) == 3 and all(each["alt"] for each in page.of("img"))
    assert not any("style" in attributes for _, attributes in page.tags)  # the policy would not let them be


def test_numbers_are_numbers_and_what_is_none_is_null(written):
    found = json.loads((written / "report.json").read_text(), parse_constant=pytest.fail)
    assert (found["format"], found["version"]) == ("trtllm_ext.report", 1)
    assert found["files"] == sorted(each.name for each in written.iterdir())
    parts = {item["name"]: item for each in found["sections"] for item in each["items"] if "name" in item}
    assert parts["table"]["rows"] == [[EVIL, 3, 0.25], ["b", None, None], ["c", 1000, -1e-9]]
    assert parts["map"]["values"] == [[0.5, None, -2.0], [1.0, None, 3.25]]
    assert parts["lines"]["series"] == {"a": [1, 2, 3], EVIL: [0.1, 0.0, None]}
    assert parts["raw.values"] == {
        "kind": "array",
        "name": "raw.values",
        "shape": [1, 2, 3],
        "dtype": "float16",
    }
    arrays = load_file(written / "arrays.safetensors")
    np.testing.assert_array_equal(arrays["map"], VALUES)
    assert arrays["map"].dtype == np.float32 and arrays["raw.values"].dtype == np.float16
    assert arrays["lines/x"].tolist() == [0, 1, 2] and arrays["bars/y/one"].tolist() == [1, 2]


def test_narrow_floats_are_short_and_read_back(tmp_path):
    report = Report("t", command="c", facts={})
    report.section("s")
    values = np.array([[0.1, 1 / 3]], np.float32)
    report.heat_map("map", values, ["r"], ["a", "b"], "", "u")
    text = (report.write(tmp_path / "out") / "report.json").read_text()
    assert "[[0.1, 0.33333334]]" in text


def pixels(data):
    from matplotlib.image import imread

    return imread(data, format="png")


def drawn(values, diverging):
    """The colours (RGB) that are anywhere in a heat map's figure."""
    import io

    report = Report("t", command="c", facts={})
    report.section("s")
    report.heat_map("map", values, ["a", "b"], ["x", "y"], "", "u", diverging)
    image = figures.draw(report.sections[0].items[0], figures.THEMES[0])
    return pixels(io.BytesIO(image.png))[..., :3].reshape(-1, 3)


def test_zero_has_the_middle_colour_of_a_diverging_map():
    import matplotlib

    middle = np.array(matplotlib.colormaps["RdBu_r"](0.5)[:3])
    one_sided = np.array([[0.0, 1.0], [2.0, 4.0]])
    # The file has 256 colours: each pixel is within some hundredths of its own.
    near = [np.abs(drawn(one_sided, diverging) - middle).max(1) < 0.03 for diverging in (True, False)]
    assert near[0].mean() > 0.1 > near[1].mean()


def size_of(png):
    return struct.unpack(">II", png[16:24])


def test_a_figure_grows_with_what_it_shows_but_not_beyond_a_screen():
    def sizes(rows, columns):
        report = Report("t", command="c", facts={})
        report.section("s")
        names = [f"layers.{index}.mlp" for index in range(rows)]
        report.heat_map(
            "map", np.ones((rows, columns)), names, [f"token{i}" for i in range(columns)], "", "u"
        )
        image = figures.draw(report.sections[0].items[0], figures.THEMES[0])
        assert size_of(image.png)[0] == pytest.approx(128 * image.width, abs=1)
        return image.width, image.height

    small, large = sizes(2, 3), sizes(48, 128)
    assert small[0] < 6 and small[1] < 2 and 9 < large[0] < 14 and large[1] < 16


def test_without_matplotlib_all_but_figures(monkeypatch, tmp_path):
    monkeypatch.setattr(figures, "available", lambda: False)
    directory = small_report().write(tmp_path / "out")
    assert sorted(each.name for each in directory.iterdir()) == [
        "arrays.safetensors",
        "report.html",
        "report.json",
    ]
    text = (directory / "report.html").read_text()
    assert "Figures left out: 1. Figures need matplotlib: <code>pip install" in text.replace("&#x27;", "'")
    assert "<details open>" in text


def test_an_earlier_report_is_replaced_and_nothing_else(monkeypatch, tmp_path):
    monkeypatch.setattr(figures, "available", lambda: False)
    directory = small_report("one").write(tmp_path / "out")
    assert "two" in (small_report("two").write(directory) / "report.html").read_text()
    (directory / "holiday.png").write_bytes(b"mine")
    with pytest.raises(AnalysisError, match=r"no part of an earlier report: holiday\.png"):
        small_report("three").write(directory)
    assert "two" in (directory / "report.html").read_text()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    with pytest.raises(AnalysisError, match=r"no part of an earlier report: config\.json"):
        small_report().write(tmp_path / "model")


@pytest.mark.parametrize(
    ("add", "message"),
    [
        (
            lambda r: r.heat_map("m", np.ones((2, 3)), ["a"], ["b"], "", ""),
            "shape \\(2, 3\\); its labels are 1 rows",
        ),
        (lambda r: r.heat_map("m", np.ones(3), ["a"], ["b"], "", ""), "expected 2 dimensions"),
        (lambda r: r.heat_map("m", np.ones((1, 1), complex), ["a"], ["b"], "", ""), "complex128"),
        (lambda r: r.lines("l", [1, 2], {"a": [1]}, "", "", ""), "a has 1 values, expected 2"),
        (lambda r: r.bars("l", ["a"], {}, "", ""), "no series"),
        (lambda r: r.table("t", ["a"], [(1, 2)]), "row 0 has 2 cells, expected 1: a"),
        (lambda r: r.table("t", ["a"], [([],)]), "is no cell"),
        (lambda r: r.arrays("../evil", [1]), "is no name"),
        (lambda r: (r.arrays("x", [1]), r.arrays("x", [1])), "already"),
    ],
)
def test_what_does_not_fit_is_refused_when_it_is_given(add, message):
    report = Report("t", command="c", facts={})
    report.section("s")
    with pytest.raises(ConfigError, match=message):
        add(report)


def test_a_report_begins_with_a_section(tmp_path):
    report = Report("t", command="c", facts={})
    with pytest.raises(ConfigError, match="no section yet"):
        report.text("x")
    with pytest.raises(ConfigError, match="needs a section"):
        report.write(tmp_path / "out")
    assert not (tmp_path / "out").exists()


# A command's process, told apart by its progress: it is interrupted while figures are drawn.
COMMAND = """
import sys, time
from trtllm_ext.analysis.report import Report, figures
from trtllm_ext.cli import main

def endless(item, theme):
    print("drawing", flush=True)
    time.sleep(60)

figures.available, figures.draw = lambda: True, endless

def run(arguments):
    report = Report("t", command="c", facts={})
    report.section("s")
    report.heat_map("map", [[1.0]], ["a"], ["b"], "", "u")
    report.write(sys.argv[1])

main.stream.SUBCOMMANDS["spectrum"].run = run
sys.exit(main.main(["stream", "spectrum", "--output_dir", sys.argv[1]]))
"""


def test_an_interrupt_leaves_nothing_and_ends_with_130(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout.readline() == "drawing\n", process.stderr.read()
    staged = [each.name for each in tmp_path.iterdir()]
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130 and "trtllm-ext: interrupted" in told
    assert any(".writing-" in name for name in staged)
    assert not [each.name for each in tmp_path.iterdir() if "lock" not in each.name]
