"""Run an engine once on arrays from a file.

--input holds one array for each input of the engine, by name, as numpy.savez writes them; --output receives one
for each output. bfloat16 arrays are stored by numpy as two raw bytes an element, in both directions.

An engine of N ranks runs as N processes: with --nproc N here, or with mpirun -n N trtllm-ext run .... Every rank reads
the input; rank 0 writes the output, when all ranks have ended well.
"""

import argparse
from typing import TYPE_CHECKING, Any

from trtllm_ext.cli.options import add_session_options, open_session
from trtllm_ext.cli.ranks import is_first, on_all, on_ranks

if TYPE_CHECKING:
    import numpy as np

    from trtllm_ext.parallel import Communicator


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    parser = commands.add_parser("run", help="arrays in, arrays out")
    add_session_options(parser)
    parser.add_argument(
        "--input", required=True, metavar="FILE", help=".npz file with the engine's inputs by name"
    )
    parser.add_argument("--output", required=True, metavar="FILE", help=".npz file to write the outputs to")
    return parser


def run(arguments: argparse.Namespace) -> int:
    return on_ranks(arguments, lambda world: _run(arguments, world))


def _run(arguments: argparse.Namespace, world: "Communicator | None") -> int:
    from trtllm_ext.cli.npz import check_output, read_npz, write_npz
    from trtllm_ext.runtime.dtypes import numpy_dtype

    def read() -> "dict[str, np.ndarray[Any, Any]]":
        if is_first(world):
            check_output(arguments.output, arguments.input)
        return read_npz(arguments.input)

    inputs, _ = on_all(world, read, what=f"reading {arguments.input}")
    with open_session(arguments, world) as session:
        for info in session.inputs:
            wanted, value = numpy_dtype(info.dtype), inputs.get(info.name)
            # numpy writes types that are not its own as raw bytes, and forgets the name.
            if value is not None and value.dtype.kind == "V" and value.dtype.itemsize == wanted.itemsize:
                inputs[info.name] = value.view(wanted)
        outputs = session.run(inputs)
    on_all(world, lambda: None)  # nothing is written before all ranks have ended well
    write = (lambda: write_npz(arguments.output, outputs)) if is_first(world) else (lambda: None)
    on_all(world, write, what=f"writing {arguments.output}")
    if is_first(world):
        for name, value in outputs.items():
            print(f"{arguments.output}: {name} {value.dtype} {value.shape}")
    return 0
