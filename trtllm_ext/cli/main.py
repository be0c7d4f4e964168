"""Entry point of `trtllm-ext`: finds the command, and turns errors into one sentence and an exit code.

Exit codes: 0 done; 1 an error, told on stderr in one sentence; 2 wrong usage; 130 interrupted.
TRTLLM_EXT_TRACEBACK=1 shows where an error came from.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from trtllm_ext.cli import (
    build,
    convert,
    doctor,
    embed,
    export,
    inspect,
    interrupts,
    refit,
    run,
    serve,
    stream,
    verify,
)
from trtllm_ext.cli.parser import LOG_LEVELS, Parser, complete
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
    "serve": serve,
    "verify": verify,
    "stream": stream,
    "inspect": inspect,
    "doctor": doctor,
}
# Those that make or load engines, which may need the compiled plugins.
_WITH_ENGINES = (build, refit, run, embed, serve, verify, inspect)


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands; needs no package beyond Python's own."""
    parser = Parser(
        prog="trtllm-ext",
        description="Take a trained checkpoint to an engine and run it, with or without a GPU.",
        epilog="The way in: convert, then build, then run or embed. `trtllm-ext COMMAND --help` says more.",
    )
    parser.add_argument("--version", action="version", version=f"trtllm-ext {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in COMMANDS.values():
        sub = module.add_parser(commands)
        if module is not stream:  # whose subcommands are complete
            complete(sub, module, with_engines=module in _WITH_ENGINES)
    return parser


def _use_plugins(arguments: argparse.Namespace) -> None:
    if getattr(arguments, "plugin_library", None):
        from trtllm_ext.runtime import own_plugins

        own_plugins.use(arguments.plugin_library)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code.

    Wrong usage raises SystemExit(2), as argparse does; what several ranks have met together, SystemExit(1).
    """
    # ONNX Runtime's packages report their use over the network from the moment they are imported, unless this is set.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
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
