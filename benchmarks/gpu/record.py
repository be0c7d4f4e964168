"""What a benchmark on a GPU tells while it runs, and leaves behind: one record, as JSON and as tables to read."""

import json
import sys
from pathlib import Path
from typing import Any

Record = dict[str, Any]


def command_of(script: str) -> str:
    """How this run of `script` was called, from the root of the checkout; where its results went is left out."""
    given = list(sys.argv[1:])
    if "--output" in given:
        at = given.index("--output")
        del given[at : at + 2]
    return " ".join(["python", f"benchmarks/gpu/{script}", *given])


def write(record: Record, folder: Path, name: str, tables: str) -> None:
    """`name`.json and `name`.md in `folder`, which is made; as often as there is something new."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    text = f"# {name}\n\n`{record['command']}`; {record['machine']}\n{tables}\n"
    (folder / f"{name}.md").write_text(text)


def tell(text: str) -> None:
    """Print at once: a run that is cut short has told what it has."""
    print(text, flush=True)
