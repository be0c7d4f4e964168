"""What the README shows is what is there, and it runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

from trtllm_ext.cli.main import make_parser

BUDGET_S = 30

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]


def test_the_program_in_the_readme_is_the_example():
    (program,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert program == (ROOT / "examples" / "feed_forward.py").read_text()


def test_the_program_runs(tmp_path):
    run = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "feed_forward.py")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.startswith("(5, 64) [")
    (written,) = tmp_path.iterdir()
    assert written.stat().st_size > 4 * 2 * 64 * 256
    assert f"/{written.name}" in (ROOT / ".gitignore").read_text().splitlines()


def test_the_commands_shown_are_the_ones_the_demo_runs():
    demo = (ROOT / "examples" / "demo.sh").read_text()
    for command in re.findall(r"^(?:mpirun -n \d )?trtllm-ext (\w+) (.*)$", README, re.MULTILINE):
        assert f"trtllm-ext {command[0]}" in demo
        for flag in re.findall(r"--\w+", command[1]):
            assert flag in demo


def test_the_number_of_architectures_is_true():
    from trtllm_ext.checkpoint.convert.planners import MODEL_TYPES

    assert f"{len(MODEL_TYPES)} model types" in README


def test_every_command_prints_its_help():
    environment = {**os.environ, "COLUMNS": "120"}
    command = [sys.executable, "-m", "trtllm_ext.cli.main"]
    for name in ("convert", "build", "run", "embed", "verify", "inspect", "doctor"):
        run = subprocess.run(
            [*command, name, "--help"], capture_output=True, text=True, env=environment, check=True
        )
        assert f"trtllm-ext {name}" in run.stdout


def test_the_flags_in_the_pages_exist():
    (commands,) = make_parser()._subparsers._group_actions
    for page in PAGES:
        for name, rest in re.findall(r"trtllm-ext (\w+)([^`#\n]*)", page.read_text()):
            assert name in commands.choices, f"{page.name} shows {name}"
            parser = commands.choices[name]
            if parser._subparsers is not None and (subcommand := re.match(r" ([a-z]\w*)", rest)):
                (subcommands,) = parser._subparsers._group_actions
                assert subcommand[1] in subcommands.choices, f"{page.name} shows {name} {subcommand[1]}"
                parser = subcommands.choices[subcommand[1]]
            known = parser._option_string_actions
            for flag in re.findall(r"--\w[\w-]*", rest):
                assert flag in known, f"{page.name} shows {name} {flag}"


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
