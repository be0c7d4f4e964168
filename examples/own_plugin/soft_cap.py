"""An operation of one's own, y = cap * tanh(x / cap): as plain layers on the embedded engine, as a plugin in TensorRT.

python examples/own_plugin/soft_cap.py                                       # embedded engine: nothing to compile
python examples/own_plugin/soft_cap.py build/own_plugin/libsoft_cap.so       # NVIDIA's TensorRT, with soft_cap.cu
"""

import sys
from collections import OrderedDict

import numpy as np

import trtllm_ext as tx
from trtllm_ext.graph import Tensor, functional
from trtllm_ext.plugin.adding import add_operation
from trtllm_ext.plugin.c_interface import Type
from trtllm_ext.plugin.creators import load_operation
from trtllm_ext.plugin.operation import Operand, Operation, choice, number


def expansion(fields, *, x):
    """The same in layers that TensorRT has: what the kernel is held against."""
    return (functional.tanh(x * (1.0 / fields["cap"])) * fields["cap"],)


SOFT_CAP = Operation(
    name="soft_cap",
    plugin="SoftCap",
    namespace="own_plugin",
    doc="y = cap * tanh(x / cap): values keep their sign and stay below the cap",
    fields=(
        choice("type", Type, "type of x and y"),
        number("cap", "the limit, above 0", default=30.0, least=1e-6),
    ),
    inputs=(Operand(name="x", shape=("...", "width"), doc="what is limited"),),
    outputs=(Operand(name="y", shape=("...", "width"), doc="x within the limit"),),
    types=("float32", "float16", "bfloat16"),
    expansion=expansion,
)
# What `python -m trtllm_ext.plugin.write_operations --operations` writes C++ tables from.
OPERATIONS = {SOFT_CAP.name: SOFT_CAP}


def soft_cap(x: Tensor, cap: float = 30.0) -> Tensor:
    """cap * tanh(x / cap), one plugin layer. x: (..., width), as the result."""
    (y,) = add_operation(SOFT_CAP, {"cap": cap}, {"x": x})
    return y


def main() -> None:
    load_operation(SOFT_CAP, *sys.argv[1:2])
    builder = tx.Builder()
    network = builder.create_network()
    with tx.net_guard(network):
        ranges = OrderedDict(num_tokens=[[1, 16, 128]], width=[48])
        x = tx.Tensor(name="x", dtype="float32", shape=[-1, 48], dim_range=ranges)
        soft_cap(x, cap=5.0).mark_output("y")
    engine = builder.build_engine(network, builder.create_builder_config(precision="float32"))

    x = np.random.default_rng(0).normal(scale=10, size=(7, 48)).astype(np.float32)
    with tx.Session.from_serialized_engine(engine) as session:
        y = session.run({"x": x})["y"]
    error = np.abs(y - 5 * np.tanh(x.astype(np.float64) / 5)).max()
    print(f"largest value {np.abs(x).max():.1f} became {np.abs(y).max():.1f}; largest error {error:.1e}")
    assert error < 1e-5


if __name__ == "__main__":
    main()
