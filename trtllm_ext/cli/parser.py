"""The parser of every command, and the options that every command has."""

import argparse
import difflib
import logging
import re
import sys
from types import ModuleType
from typing import Any, NoReturn

LOG_LEVELS = {
    "internal_error": logging.CRITICAL,
    "error": logging.ERROR,
    "warning": logging.WARNING,
    "info": logging.INFO,
    "verbose": logging.DEBUG,
    "debug": logging.DEBUG,
}


class Parser(argparse.ArgumentParser):
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
        if command := re.match(r"argument (?:SUB)?COMMAND: invalid choice: '(.*?)'", message):
            near = difflib.get_close_matches(command[1], self._commands(), 1)
            message += f". Did you mean {near[0]}?" if near else ""
        unknown = self._unknown_options()
        if "required" in message and unknown:
            # argparse misses an option before it says that another one is unknown.
            message += f"; unknown: {' '.join(unknown)}{self.suggestion(unknown)}"
        self.exit(2, f"{self.prog}: error: {message}\nSee `{self.prog} --help`.\n")

    def _commands(self) -> list[str]:
        groups = (each for each in self._actions if isinstance(each, argparse._SubParsersAction))
        return [name for group in groups for name in group.choices]

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


def complete(parser: argparse.ArgumentParser, module: ModuleType, *, with_engines: bool) -> None:
    """Give a command's parser its description (the module's text), its `run`, and the options that all have.

    with_engines: the command makes or loads engines, which may need the compiled plugins.
    """
    parser.description = (module.__doc__ or "").strip()
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--log_level",
        choices=LOG_LEVELS,
        default="warning",
        metavar="LEVEL",
        help=f"what to log on stderr: {', '.join(LOG_LEVELS)} (default: warning)",
    )
    if with_engines:
        parser.add_argument(
            "--plugin_library",
            metavar="FILE",
            help="libtrtllm_ext_plugins.so, for TensorRT (default: the package's own, or what TRTLLM_EXT_PLUGINS "
            "names)",
        )
    parser.set_defaults(run=module.run, parser=parser)
