"""Write a model for other programs: an ONNX file, or a model of NVIDIA's Triton Inference Server.

--onnx FILE: a checkpoint's network, for Netron, Polygraphy and trtexec. The file has standard operators alone, the
weights, names of layers and tensors, and named dimensions that vary. It is the network that `build` makes an engine of
under the same flags; --engine_dir takes them from an engine. A checkpoint of several ranks is written as the whole
model. float16 and bfloat16 stay the types of inputs, outputs and weights, while arithmetic is in float32 with a cast at
each layer's edge, as the embedded engine runs it.

--triton REPOSITORY: an engine, as the next version of a model in a model repository, with its config.pbtxt. A TensorRT
engine becomes model.plan; an embedded one, with the weights of --checkpoint_dir, model.onnx for the ONNX Runtime
backend.
"""

import argparse
import shlex
from typing import TYPE_CHECKING, Any

from trtllm_ext.cli.build import SIZES
from trtllm_ext.cli.plan_table import print_tensors
from trtllm_ext.cli.terminal import human_bytes
from trtllm_ext.errors import ConfigError

if TYPE_CHECKING:
    from trtllm_ext.builder import BuildConfig, ExportedModel

_OF_TRITON = ("model_name", "existing_config", "plugin_library")


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    parser = commands.add_parser("export", help="a model to an ONNX file, or to a Triton model repository")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--onnx", metavar="FILE", help="the ONNX file to write")
    target.add_argument("--triton", metavar="REPOSITORY", help="the model repository to write a model into")
    parser.add_argument("--checkpoint_dir", metavar="DIR", help="what `trtllm-ext convert` wrote")
    parser.add_argument(
        "--engine_dir",
        metavar="DIR",
        help="the engine to export; with --onnx one of the checkpoint, whose limits and taps are taken",
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
    parser.add_argument(
        "--model_name", metavar="NAME", help="the model's name in Triton (default: the engine directory's)"
    )
    parser.add_argument(
        "--existing_config",
        choices=("keep", "overwrite"),
        help="what becomes of a config.pbtxt that was edited, or tells of other inputs, outputs or limits (default: "
        "refuse)",
    )
    parser.add_argument(
        "--plugin_library",
        nargs="+",
        metavar="FILE",
        help="libraries of the engine's plugins, which are copied beside it (default: the package's own, or what "
        "TRTLLM_EXT_PLUGINS names)",
    )
    return parser


def run(arguments: argparse.Namespace) -> int:
    if arguments.triton is not None:
        return _triton(arguments)
    if arguments.checkpoint_dir is None:
        arguments.parser.error("the following arguments are required: --checkpoint_dir")
    if given := [name for name in _OF_TRITON if getattr(arguments, name) is not None]:
        arguments.parser.error(f"--{given[0]} is for --triton alone")
    return _onnx(arguments)


def _onnx(arguments: argparse.Namespace) -> int:
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


def _triton(arguments: argparse.Namespace) -> int:
    from trtllm_ext.builder import export_triton

    if arguments.engine_dir is None:
        arguments.parser.error("the following arguments are required: --engine_dir")
    if given := _build_flags(arguments):
        raise ConfigError(
            f"--{given[0]} says how a network is built, and --triton writes the engine of --engine_dir as it was "
            f"built. Leave it out, or build an engine with it."
        )
    model = export_triton(
        arguments.engine_dir,
        arguments.triton,
        model_name=arguments.model_name,
        checkpoint_dir=arguments.checkpoint_dir,
        plugin_libraries=arguments.plugin_library or (),
        existing_config=arguments.existing_config,
        external_data=arguments.external_data,
        allow_nan=arguments.allow_nan,
    )
    size = human_bytes(sum(file.stat().st_size for file in model.path.iterdir()))
    print(f"{model.file}: version {model.version} of the model {model.path.parent.name}, {size}")
    print_tensors(model.inputs, model.outputs)
    if not model.has_written_config:
        print(f"  {model.config_path} is as it was")
    for sentence in (model.batching.reason, *model.notes):
        print(f"  {sentence}")
    options = [f"--model-repository={arguments.triton}", *model.server_options]
    print(f"  tritonserver {shlex.join(options)}")
    return 0


def _build_flags(arguments: argparse.Namespace) -> list[str]:
    """The names of those flags that say how a network is built, where they are given."""
    names = (*SIZES, "taps", "build_config")
    return [name for name in names if getattr(arguments, name) is not None]


def _config_of(arguments: argparse.Namespace) -> "BuildConfig | None":
    """The flags as a BuildConfig; None where an engine says it all."""
    from trtllm_ext.builder import BuildConfig

    if arguments.engine_dir is not None:
        if given := _build_flags(arguments):
            raise ConfigError(
                f"--{given[0]} says how the network is built, and so does --engine_dir. Leave one of them out."
            )
        return None
    flags: dict[str, Any] = {
        name: value for name in (*SIZES, "taps") if (value := getattr(arguments, name)) is not None
    }
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
