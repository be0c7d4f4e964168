"""A report in headless Chromium: it renders, loads nothing, fits a phone, sorts its tables."""

import html
import json
import os
import re
import shutil
import struct
import subprocess

import numpy as np
import pytest

from trtllm_ext.analysis.report import Report

BUDGET_S = 12
pytestmark = [pytest.mark.long, pytest.mark.usefixtures("one_thread")]

NAMES = (
    "chromium",
    "chromium-browser",
    "chromium-headless-shell",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
)

# What the browser itself measures, added to a copy of the page whose policy lets this one script run.
PROBE = """
addEventListener("load", () => {
  const head = document.querySelectorAll("table")[0].tHead.rows[0].cells[1];
  const order = () => [...document.querySelectorAll("table")[0].tBodies[0].rows].map((row) => row.cells[0].textContent);
  const found = {
    images: [...document.images].map((each) => each.naturalWidth * each.naturalHeight),
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    width: document.documentElement.clientWidth,
    requests: performance.getEntriesByType("resource").filter((each) => !each.name.startsWith("data:")).length,
  };
  head.querySelector("button").click();
  found.ascending = order();
  head.querySelector("button").click();
  found.descending = order();
  found.said = head.getAttribute("aria-sort");
  document.body.dataset.found = JSON.stringify(found);
});
"""


@pytest.fixture(scope="module")
def browser():
    given = os.environ.get("TRTLLM_EXT_CHROMIUM")
    found = given or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is there, and TRTLLM_EXT_CHROMIUM names none")
    return found


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report of 48 layers and 128 tokens, with long names everywhere."""
    rng = np.random.default_rng(0)
    report = Report(
        "The residual stream of <a model>", command="trtllm-ext " + "x" * 300, facts={"long": "y" * 300}
    )
    report.section("Tables and figures")
    report.text("A sentence with a_very_long_name" + "_that_goes_on" * 20)
    rows = [("nine", 9.0, "z" * 80), ("none", None, ""), ("ten", 10.0, ""), ("small", 1e-3, "")]
    report.table("table", ["name", "value", "a long heading of a column"], rows, "Sorted by number.")
    layers, tokens = [f"layers.{index}.mlp" for index in range(48)], [f"token{index}" for index in range(128)]
    report.heat_map("map", rng.normal(size=(48, 128)), layers, tokens, "All.", "cosine", True)
    report.heat_map("small", [[1.0, 2.0]], ["a"], ["b", "c"], "Few.", "norm")
    report.lines(
        "lines", np.arange(48), {"a": rng.random(48), "b": rng.random(48)}, "layer", "share", "Lines."
    )
    report.bars("bars", layers, {"a": rng.random(48)}, "share", "Bars.")
    return report.write(tmp_path_factory.mktemp("report") / "out") / "report.html"


def run(browser, *arguments):
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--virtual-time-budget=9000",
    ]
    offline = ["--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--v=0"]
    done = subprocess.run(
        [*command, *offline, *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.parametrize("width", [400, 1280])
def test_it_renders_loads_nothing_and_fits(browser, page, width, tmp_path):
    text = page.read_text()
    probed = tmp_path / "probed.html"
    policy = re.search(r'<meta http-equiv="Content-Security-Policy"[^>]*>', text)[0]
    probed.write_text(text.replace(policy, "").replace("</body>", f"<script>{PROBE}</script></body>"))
    outer, told = run(browser, f"--window-size={width},900", "--dump-dom", f"file://{probed}")
    found = json.loads(html.unescape(re.search(r'data-found="([^"]*)"', outer)[1]))
    assert len(found["images"]) == 4 and min(found["images"]) > 1000
    assert (found["width"], found["overflow"], found["requests"], told) == (width, 0, 0, [])
    assert found["ascending"] == ["small", "nine", "ten", "none"]
    assert found["descending"] == ["ten", "nine", "small", "none"] and found["said"] == "descending"


def test_its_own_policy_lets_it_work(browser, page, tmp_path):
    picture = tmp_path / "page.png"
    _, told = run(browser, "--window-size=400,3000", f"--screenshot={picture}", f"file://{page}")
    assert told == []
    assert struct.unpack(">II", picture.read_bytes()[16:24]) == (400, 3000)
    from matplotlib.image import imread

    pixels = imread(picture)[..., :3]
    assert (
        len(np.unique((pixels.reshape(-1, 3) * 255).astype(int), axis=0)) > 100
    )  # figures, not an empty page


def test_the_test_sees_a_request(browser, page, tmp_path):
    """A page that asks for something is caught, by its policy and by the console."""
    asking = tmp_path / "asking.html"
    asking.write_text(page.read_text().replace("</main>", '<img src="http://example.com/x.png"></main>'))
    _, told = run(browser, "--dump-dom", f"file://{asking}")
    assert any("Content Security Policy" in line for line in told)
