"""The zoo's cases with NVIDIA's TensorRT: which of them, their networks, and what came of each."""

import json
import re
from collections.abc import Callable
from typing import Any

import zoo


class RefusedError(Exception):
    """A network that is not there to go on with: what came of it, and a sentence."""


def chosen(pattern: str) -> list[int]:
    """Numbers of the cases whose names begin with what a regular expression says."""
    return [number for number, case in enumerate(zoo.CASES) if re.match(pattern, case.name)]


def defined(case: zoo.Case, trt: Any, builder: Any, logger: Any) -> Any:
    """The case's network, of the kind that the library has. Raises RefusedError; the logger begins anew."""
    logger.messages.clear()
    flags, wanted = trt.NetworkDefinitionCreationFlag, 0
    if hasattr(flags, "STRONGLY_TYPED") and case.strongly_typed:
        wanted |= 1 << int(flags.STRONGLY_TYPED)
    if int(trt.__version__.split(".", maxsplit=1)[0]) < 10:
        wanted |= 1 << int(flags.EXPLICIT_BATCH)
    try:
        network = builder.create_network(wanted)
        case.define(network, trt)
    except (AttributeError, KeyError) as error:
        raise RefusedError("lacks a name", str(error)) from error
    except (zoo.DefinitionError, TypeError, ValueError, RuntimeError) as error:
        raise RefusedError("refused at definition", " | ".join(logger.messages) or str(error)) from error
    return network


def line_of(case: zoo.Case, tried: Callable[[], tuple[str, str]]) -> dict[str, str]:
    """A line of the table: what came of a case, and a sentence."""
    try:
        came, why = tried()
    except RefusedError as refusal:
        came, why = refusal.args
    except Exception as error:  # a table of everything that happens
        came, why = "raised", f"{type(error).__name__}: {error}"
    return {"name": case.name, "came": came, "why": why[:600]}


def write_line(out: Any, line: dict[str, Any]) -> None:
    """One JSON line, which stays whatever happens to the process."""
    out.write(json.dumps(line) + "\n")
    out.flush()
