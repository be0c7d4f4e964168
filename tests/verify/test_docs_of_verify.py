"""docs/verify.md: its example gives what stands there, its tables hold, its commands run."""

import argparse
import re
import shlex
from pathlib import Path

import pytest

from trtllm_ext.cli import main as cli
from trtllm_ext.cli.verify import add_parser
from trtllm_ext.verify.tolerances import tolerances_of

BUDGET_S = 3

pytestmark = pytest.mark.usefixtures("one_thread")

TEXT = (Path(__file__).parents[2] / "docs" / "verify.md").read_text()


def words(text):
    """The words of a text, whatever its line breaks, numbers with an exponent left out: their last digit may vary."""
    return re.sub(r"\d\.\de[-+]\d+", "#", text).split()


def test_the_example(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (program,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    exec(compile(program, "docs/verify.md", "exec"), {})
    (shown,) = re.findall(r"```\n\$ trtllm-ext (.*?)```", TEXT, re.DOTALL)
    command, _, expected = shown.partition("\n")
    capsys.readouterr()
    assert cli.main(shlex.split(command)) == 1
    assert words(capsys.readouterr().out) == words(expected)
    assert expected.count(" NO\n") == 1


def test_the_commands_are_there():
    parser = add_parser(argparse.ArgumentParser().add_subparsers())
    (block,) = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    commands = [shlex.split(line.partition("#")[0]) for line in block.splitlines()]
    assert len(commands) == 6
    for command in commands:
        assert command[:2] == ["trtllm-ext", "verify"]
        parser.parse_args(command[2:])


def test_the_tolerances():
    rows = dict(re.findall(r"^\| (float32|float16|bfloat16) \| (.*) \|$", TEXT, re.MULTILINE))
    for dtype, cells in rows.items():
        embedded, nvidia = cells.split(" | ")
        assert float(embedded) == tolerances_of(dtype, "embedded", True).engine
        numbers = [float(each) for each in re.findall(r"\de-\d", nvidia)]
        assert numbers[0] == tolerances_of(dtype, "tensorrt", False).engine
        assert numbers[-1] == tolerances_of(dtype, "tensorrt", True).engine
    assert len(rows) == 3
