"""The table of support: each claim has its test, and `doctor` says which claims are about what is installed."""

import argparse
import ast
import functools
import json
import re
import sys
import tomllib
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest

from trtllm_ext import backend
from trtllm_ext.cli import doctor, support

BUDGET_S = 4

ROOT = Path(__file__).parent.parent.parent
CLAIMS = [
    pytest.param(column, cell, id=f"{column}-{feature}")
    for feature, cells in support.features().items()
    for column, cell in cells.items()
    if cell.test
]
# Where tests lie that need what the default tests have not: a GPU, or the source of TensorRT-LLM.
ON_TENSORRT = "tests/on_tensorrt/"
WITH_SOURCE = "tests/tensorrt_llm_source/"


@functools.cache
def functions_of(path):
    """Each function of a file, with the text of its decorators, a line each."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {
        node.name: "\n".join(ast.unparse(each) for each in node.decorator_list)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
    }


def parts(test):
    """File, function and case of `file::function[case]`; "" for what is left out."""
    path, _, rest = test.partition("::")
    function, _, case = rest.partition("[")
    return path, function, case.removesuffix("]")


def is_default(test):
    """Whether `make test` runs it."""
    path, function, _ = parts(test)
    if path.startswith((ON_TENSORRT, WITH_SOURCE)) or not Path(path).name.startswith("test_"):
        return False
    tests = {name: marks for name, marks in functions_of(path).items() if name.startswith("test_")}
    return any(
        "pytest.mark.long" not in marks.split("\n") for name, marks in tests.items() if function in ("", name)
    )


@pytest.mark.parametrize(("column", "cell"), CLAIMS)
def test_the_test_behind_a_claim_is_there(column, cell):
    path, function, case = parts(cell.test)
    assert path.startswith("tests/")
    assert (ROOT / path).is_file(), path
    assert not function or function in functions_of(path), cell.test
    if case:
        assert re.search("parametrize|covered", functions_of(path)[function]), cell.test
        assert case in (ROOT / path).read_text(encoding="utf-8"), cell.test


@pytest.mark.parametrize(("column", "cell"), CLAIMS)
def test_the_test_behind_a_claim_is_of_its_kind(column, cell):
    if cell.word == "ran":
        assert column.startswith("tensorrt_") and cell.test.startswith(ON_TENSORRT)
    elif cell.word == "ran on the embedded engine":
        assert column == "embedded" or column.startswith("tensorrt_llm_")
        assert is_default(cell.test) or (column != "embedded" and cell.test.startswith(WITH_SOURCE))
    elif cell.word == "signature-checked":
        assert column.startswith("tensorrt_")
        source = (ROOT / parts(cell.test)[0]).read_text(encoding="utf-8")
        assert is_default(cell.test) and re.search("bindings|tensorrt_surface|dressed_tensorrt", source)
    else:
        assert is_default(cell.test), "what is refused is refused in a default test"


def test_words_columns_and_claims_are_in_order():
    table = json.loads((ROOT / "trtllm_ext/cli/support.json").read_text())
    assert set(support.columns()) == {
        "embedded",
        *support.TENSORRT.values(),
        *support.TENSORRT_LLM.values(),
    }
    for feature, cells in table["features"].items():
        assert list(cells) == list(table["columns"]), feature
        for cell in support.features()[feature].values():
            assert cell.word in support.WORDS, feature
            assert cell.test or cell.word == "not available", f"{feature}: {cell.word} without a test"


def test_the_table_is_installed_with_the_package():
    package_data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert "cli/support.json" in package_data["trtllm_ext"]


def install(monkeypatch, **versions):
    """Stand-ins of these versions for NVIDIA's packages, and a device."""
    for name, version in versions.items():
        module = ModuleType(name)
        module.__version__ = version
        module.__spec__ = ModuleSpec(name, None)
        module.Builder = module.net_guard = object
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(backend, "cuda_device_count", lambda: 1)
    monkeypatch.setattr(backend, "_choose", backend._choose.__wrapped__)
    monkeypatch.setattr(backend, "_is_installed", lambda package: package in versions)
    monkeypatch.setattr(doctor, "_mpi", lambda: iter(()))
    monkeypatch.delenv(backend.ENVIRONMENT_VARIABLE, raising=False)


def told(capsys, as_json):
    doctor.run(argparse.Namespace(json=as_json, quick=False))
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("versions", "column"),
    [
        ({}, "embedded"),
        ({"tensorrt": "8.6.1"}, "tensorrt_8.6"),
        ({"tensorrt": "10.14.1.48"}, "tensorrt_10.14"),
        ({"tensorrt": "11.4.0"}, "tensorrt_11.4"),
        ({"tensorrt": "10.7.0", "tensorrt_llm": "0.16.0"}, "tensorrt_llm_0.16"),
        ({"tensorrt": "10.14.1", "tensorrt_llm": "1.2.1"}, "tensorrt_llm_1.2"),
    ],
)
def test_doctor_says_the_cells_of_what_is_installed(versions, column, monkeypatch, capsys):
    install(monkeypatch, **versions)
    answer = json.loads(told(capsys, as_json=True))
    assert (answer["support"]["column"], answer["support"]["is_exact"]) == (column, True)
    cells = {each["feature"]: (each["word"], each["test"]) for each in answer["support"]["cells"]}
    table = json.loads((ROOT / "trtllm_ext/cli/support.json").read_text())["features"]
    assert cells == {name: tuple(row[column]) for name, row in table.items()}
    (finding,) = [each for each in answer["findings"] if each["subject"] == "support"]
    assert f" {len(cells)} features: " in finding["text"]


@pytest.mark.parametrize(
    ("library", "version", "column", "says"),
    [
        ("tensorrt", "8.5.3", "tensorrt_8.6", "older than the first version of the table (8.6)"),
        ("tensorrt", "9.3.0", "tensorrt_10.14", "between two versions of the table (8.6 and 10.14)"),
        ("tensorrt", "10.9.0.34", "tensorrt_10.14", "between two versions of the table (8.6 and 10.14)"),
        ("tensorrt", "10.16.1", "tensorrt_10.14", "between two versions of the table (10.14 and 11.4)"),
        ("tensorrt", "11.1", "tensorrt_11.4", "between two versions of the table (10.14 and 11.4)"),
        ("tensorrt", "12.0.0", "tensorrt_11.4", "newer than the last version of the table (11.4)"),
        ("tensorrt_llm", "0.21.0", "tensorrt_llm_0.16", "between two versions of the table (0.16 and 1.2)"),
        ("tensorrt_llm", "1.3.0rc5", "tensorrt_llm_1.2", "newer than the last version of the table (1.2)"),
        ("tensorrt", "", "tensorrt_8.6", "whose version is not told"),
    ],
)
def test_other_versions_have_the_nearest_column_and_no_claim(library, version, column, says):
    place = support.place_of(library, version)
    assert (place.column, place.is_exact) == (column, False)
    assert says in place.text
    assert "nothing is claimed for it" in place.text


def test_the_lines_hold_every_feature_behind_its_word(monkeypatch, capsys):
    install(monkeypatch, tensorrt="10.9.0")
    heading, _, text = told(capsys, as_json=False).split("\n\n")[1].partition("\n")
    assert heading == "TensorRT 10.14 (nearest)"
    assert max(map(len, text.splitlines())) <= 100
    paragraphs = [" ".join(each.split()) for each in re.split(r"^  (?=\S)", text, flags=re.M)[1:]]
    said = {each.partition(": ")[0]: each.partition(": ")[2].split("; ") for each in paragraphs}
    for feature, cell in support.cells_of(support.place()).items():
        assert feature.replace("`", "") in said[cell.word]
    assert sum(map(len, said.values())) == len(support.features())


def test_a_tensorrt_that_is_not_in_use_has_its_place_told(monkeypatch, capsys):
    """Here there is no device for it, so that the column below is the embedded engine's."""
    install(monkeypatch, tensorrt="10.9.0.34")
    monkeypatch.setattr(backend, "cuda_device_count", lambda: None)
    answer = json.loads(told(capsys, as_json=True))
    assert answer["support"]["column"] == "embedded"
    found = {each["subject"]: each["text"] for each in answer["findings"]}
    assert found["tensorrt support"] == (
        "TensorRT 10.9.0.34 is installed, between two versions of the table (8.6 and 10.14): nothing is claimed for "
        "it; the words are those of the nearest column, TensorRT 10.14"
    )


def test_without_an_engine_there_is_no_column(monkeypatch, capsys):
    install(monkeypatch)
    monkeypatch.setenv(backend.ENVIRONMENT_VARIABLE, "gpu")
    assert json.loads(told(capsys, as_json=True))["support"] is None
