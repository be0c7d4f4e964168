"""The residual stream of a model as something one can see: what each sublayer adds to it, reads from it, fills of it.

A sublayer reads the stream by a linear map and writes to it by another. Every subcommand takes one of these facts to a
report: a page to look at, its figures as PNG, and the same numbers as JSON and safetensors.
"""

import argparse
from types import ModuleType

from trtllm_ext.cli.parser import complete
from trtllm_ext.cli.stream import capture, decompose, neurons, report, rotate, spectrum, steer, weights

# One module a subcommand, with `add_parser` and `run` as every command has them; it imports what it needs when it runs.
SUBCOMMANDS: dict[str, ModuleType] = {
    "capture": capture,
    "decompose": decompose,
    "rotate": rotate,
    "steer": steer,
    "weights": weights,
    "spectrum": spectrum,
    "neurons": neurons,
    "report": report,
}


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    parser = commands.add_parser("stream", help="look into the residual stream of a checkpoint or an engine")
    parser.description = (__doc__ or "").strip()
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "`trtllm-ext stream SUBCOMMAND --help` says more; so does docs/residual_stream.md."
    subcommands = parser.add_subparsers(dest="subcommand", metavar="SUBCOMMAND", required=True)
    for module in SUBCOMMANDS.values():
        complete(module.add_parser(subcommands), module, with_engines=True)
    return parser
