"""Run an engine once on arrays from a file.

--input holds one array for each input of the engine, by name, as numpy.savez writes them; --output receives one
for each output. bfloat16 arrays are stored by numpy as two raw bytes an element, in both directions.
"""

import argparse

from trtllm_ext.cli.options import add_session_options


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    parser = commands.add_parser("run", help="arrays in, arrays out")
    add_session_options(parser)
    parser.add_argument(
        "--input", required=True, metavar="FILE", help=".npz file with the engine's inputs by name"
    )
    parser.add_argument("--output", required=True, metavar="FILE", help=".npz file to write the outputs to")
    return parser


def run(arguments: argparse.Namespace) -> int:
    from trtllm_ext.cli.npz import check_output, read_npz, write_npz
    from trtllm_ext.runtime import Session
    from trtllm_ext.runtime.dtypes import numpy_dtype

    check_output(arguments.output, arguments.input)
    inputs = read_npz(arguments.input)
    with Session.from_engine_dir(arguments.engine_dir, arguments.rank, arguments.load_mode) as session:
        for info in session.inputs:
            wanted, value = numpy_dtype(info.dtype), inputs.get(info.name)
            # numpy writes types that are not its own as raw bytes, and forgets the name.
            if value is not None and value.dtype.kind == "V" and value.dtype.itemsize == wanted.itemsize:
                inputs[info.name] = value.view(wanted)
        outputs = session.run(inputs)
    write_npz(arguments.output, outputs)
    for name, value in outputs.items():
        print(f"{arguments.output}: {name} {value.dtype} {value.shape}")
    return 0
