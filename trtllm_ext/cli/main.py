"""Entry point of `trtllm-ext`: finds the command, and turns errors into one sentence and an exit code.

Exit codes: 0 done; 1 an error, told on stderr in one sentence; 2 wrong usage; 130 interrupted.
TRTLLM_EXT_TRACEBACK=1 shows where an error came from.
"""

import argparse
import difflib
import logging
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from trtllm_ext.cli import build, convert, doctor, embed, export, inspect, interrupts, refit, run, verify
from trtllm_ext.cli.ranks import TRACEBACK_VARIABLE, code_of_launched
from trtllm_ext.errors import TrtllmExtError
from trtllm_ext.version import __version__

COMMANDS = {
    "convert": convert,
    "build": build,
    "export": export,
    "refit": refit,
    "run": run,
    "embed": embed,
    "verify": verify,
    "inspect": inspect,
    "doctor": doctor,
}
# Those that make or load engines, which may need the compiled plugins.
_WITH_ENGINES = (build, refit, run, embed, verify, inspect)
LOG_LEVELS = {
    "internal_error": logging.CRITICAL,
    "error": logging.ERROR,
    "warning": logging.WARNING,
    "info": logging.INFO,
    "verbose": logging.DEBUG,
    "debug": logging.DEBUG,
}


class _Parser(argparse.ArgumentParser):
    """argparse that takes no abbreviations and names the nearest option for a mistyped one."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{**settings, "allow_abbrev": False})
        self._given: list[str] = []

    def parse_known_args(  # type: ignore[override]
        self, args: Any = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        self._given = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        if command := re.match(r"argument COMMAND: invalid choice: '(.*?)'", message):
            near = difflib.get_close_matches(command[1], COMMANDS, 1)
            message += f". Did you mean {near[0]}?" if near else ""
        unknown = self._unknown_options()
        if "required" in message and unknown:
            # argparse misses an option before it says that another one is unknown.
            message += f"; unknown: {' '.join(unknown)}{self.suggestion(unknown)}"
        self.exit(2, f"{self.prog}: error: {message}\nSee `{self.prog} --help`.\n")

    def _unknown_options(self) -> list[str]:
        names = [each.split("=")[0] for each in self._given if each.startswith("--")]
        return [name for name in names if name not in ("--", *self._option_string_actions)]

    def suggestion(self, arguments: list[str]) -> str:
        """A sentence with the options nearest to unknown ones, or nothing."""
        options = {name.lstrip("-"): name for action in self._actions for name in action.option_strings}
        near = [
            options[match]
            for given in arguments
            if given.startswith("-")
            for match in difflib.get_close_matches(
                given.split("=")[0].lstrip("-").replace("-", "_"), options, 1
            )
        ]
        return f". Did you mean {' and '.join(dict.fromkeys(near))}?" if near else ""


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands; needs no package beyond Python's own."""
    parser = _Parser(
        prog="trtllm-ext",
        description="Take a trained checkpoint to an engine and run it, with or without a GPU.",
        epilog="The way in: convert, then build, then run or embed. `trtllm-ext COMMAND --help` says more.",
    )
    parser.add_argument("--version", action="version", version=f"trtllm-ext {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in COMMANDS.values():
        sub = module.add_parser(commands)
        sub.description = (module.__doc__ or "").strip()
        sub.formatter_class = argparse.RawDescriptionHelpFormatter
        sub.add_argument(
            "--log_level",
            choices=LOG_LEVELS,
            default="warning",
            metavar="LEVEL",
            help=f"what to log on stderr: {', '.join(LOG_LEVELS)} (default: warning)",
        )
        if module in _WITH_ENGINES:
            sub.add_argument(
                "--plugin_library",
                metavar="FILE",
                help="libtrtllm_ext_plugins.so, for TensorRT (default: the package's own, or what TRTLLM_EXT_PLUGINS "
                "names)",
            )
        sub.set_defaults(run=module.run, parser=sub)
    return parser


def _use_plugins(arguments: argparse.Namespace) -> None:
    if getattr(arguments, "plugin_library", None):
        from trtllm_ext.runtime import own_plugins

        own_plugins.use(arguments.plugin_library)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code.

    Wrong usage raises SystemExit(2), as argparse does; what several ranks have met together, SystemExit(1).
    """
    with interrupts.watched():
        try:
            return _run(argv)
        except BaseException as problem:
            if not isinstance(problem, KeyboardInterrupt) and not interrupts.noted():
                raise
            print("trtllm-ext: interrupted", file=sys.stderr)
            return 130


def _run(argv: Sequence[str] | None) -> int:
    arguments, unknown = make_parser().parse_known_args(argv)
    arguments.argv = list(sys.argv[1:] if argv is None else argv)  # for the ranks that --nproc starts
    if unknown:
        arguments.parser.error(f"unknown: {' '.join(unknown)}{arguments.parser.suggestion(unknown)}")
    logging.basicConfig(level=LOG_LEVELS[arguments.log_level], format="%(levelname)s %(name)s: %(message)s")
    tracebacks = os.environ.get(TRACEBACK_VARIABLE, "") not in ("", "0")
    try:
        code = code_of_launched(arguments.command)
        if code is None:
            _use_plugins(arguments)
            code = arguments.run(arguments)
        sys.stdout.flush()
    except Exception as problem:
        if interrupts.noted():
            raise
        # Errors of a file name it; those of a stream do not, and a command writes to no stream but stdout.
        if isinstance(problem, OSError) and problem.filename is None:
            # Python would complain once more at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if isinstance(problem, BrokenPipeError):  # whoever read our output has seen enough
                return 1
            return _tell(f"the output cannot be written: {(problem.strerror or str(problem)).lower()}.")
        if tracebacks:
            raise
        if isinstance(problem, TrtllmExtError):
            return _tell(str(problem))
        text = str(problem).strip().splitlines()
        return _tell(
            f"{type(problem).__name__}: {text[0] if text else 'no text'} (not expected; {TRACEBACK_VARIABLE}=1 "
            f"shows where it comes from)"
        )
    return code


def _tell(sentence: str) -> int:
    print(f"trtllm-ext: error: {sentence}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
