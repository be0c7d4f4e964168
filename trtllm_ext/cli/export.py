"""Write a checkpoint's network as ONNX, for Netron, Polygraphy and trtexec.

The file has standard operators alone, the weights, names of layers and tensors, and named dimensions that vary. It is
the network that `build` makes an engine of under the same flags; --engine_dir takes them from an engine. A checkpoint
of several ranks is written as the whole model. float16 and bfloat16 stay the types of inputs, outputs and weights,
while arithmetic is in float32 with a cast at each layer's edge, as the embedded engine runs it.
"""

import argparse
from typing import TYPE_CHECKING, Any

from trtllm_ext.cli.build import SIZES
from trtllm_ext.cli.plan_table import print_tensors
from trtllm_ext.cli.terminal import human_bytes
from trtllm_ext.errors import ConfigError

if TYPE_CHECKING:
    from trtllm_ext.builder import BuildConfig, ExportedModel


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    parser = commands.add_parser("export", help="a checkpoint directory to an ONNX file")
    parser.add_argument(
        "--checkpoint_dir", required=True, metavar="DIR", help="what `trtllm-ext convert` wrote"
    )
    parser.add_argument("--onnx", required=True, metavar="FILE", help="the file to write")
    parser.add_argument(
        "--engine_dir", metavar="DIR", help="an engine of the checkpoint, whose limits and taps are taken"
    )
    parser.add_argument(
        "--build_config", metavar="FILE", help="BuildConfig as JSON, with trtllm-build's names"
    )
    for name, text in SIZES.items():
        parser.add_argument(f"--{name}", type=int, metavar="N", help=text)
    parser.add_argument(
        "--taps",
        nargs="+",
        action="extend",
        metavar="NAME",
        help="tensors inside the model that become outputs: dotted names, or patterns such as '*.contribution'",
    )
    parser.add_argument(
        "--external_data",
        action="store_true",
        default=None,
        help="weights in FILE.data beside the model (default: inside it, where they fit into 2 GiB)",
    )
    parser.add_argument("--allow_nan", action="store_true", help="accept NaN and infinity in weights")
    return parser


def run(arguments: argparse.Namespace) -> int:
    from trtllm_ext.builder import export_onnx

    exported = export_onnx(
        arguments.checkpoint_dir,
        arguments.onnx,
        _config_of(arguments),
        engine_dir=arguments.engine_dir,
        external_data=arguments.external_data,
        allow_nan=arguments.allow_nan,
    )
    beside = f", {human_bytes(exported.data_bytes)} in {exported.data_file}" if exported.data_file else ""
    print(
        f"{exported.path}: ONNX, opset {exported.opset}, {exported.num_nodes} nodes, "
        f"{human_bytes(exported.model_bytes)}{beside}"
    )
    print_tensors(exported.inputs, exported.outputs)
    print(f"  trtexec --onnx={exported.path}{_shapes(exported)}")
    return 0


def _config_of(arguments: argparse.Namespace) -> "BuildConfig | None":
    """The flags as a BuildConfig; None where an engine says it all."""
    from trtllm_ext.builder import BuildConfig

    flags: dict[str, Any] = {
        name: value for name in (*SIZES, "taps") if (value := getattr(arguments, name)) is not None
    }
    if arguments.engine_dir is not None:
        given = [*flags, *(["build_config"] if arguments.build_config else [])]
        if given:
            raise ConfigError(
                f"--{given[0]} says how the network is built, and so does --engine_dir. Leave one of them out."
            )
        return None
    config = BuildConfig.from_json_file(arguments.build_config) if arguments.build_config else BuildConfig()
    return config.updated(**flags) if flags else config


def _shapes(exported: "ExportedModel") -> str:
    """trtexec's flags for the first profile."""
    flags = ""
    for number, name in enumerate(("minShapes", "optShapes", "maxShapes")):
        parts = [
            f"{each.name}:{'x'.join(map(str, each.profiles[0][number]))}"
            for each in exported.inputs
            if each.profiles
        ]
        flags += f" --{name}={','.join(parts)}" if parts else ""
    return flags
