"""Build the engines of a checkpoint directory.

The engine directory appears whole or not at all. Limits become optimization profiles, as in trtllm-build; one
that the model has no use for is refused as a flag, and left out where it stands in the file of --build_config (told
with --log_level info). Flags win over that file. Other flags of trtllm-build are accepted with values that ask for
nothing here, such as --max_beam_width 1.

--from-engine DIR starts from the build config of an engine that does not fit this host: another library, another
device, an earlier format. Its own file is not read; the checkpoint must be of the same model. What is given besides
wins over what was stored, and --output_dir may be the same directory, which is replaced when all is built.

A checkpoint of several ranks (`convert --tp_size N`) becomes an engine a rank. --workers builds several at a time in
processes of this machine; `mpirun -n N trtllm-ext build ...` does so in the processes it starts, on any number of
hosts that share a file system: process r builds ranks r, r + N and so on.
"""

import argparse
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtllm_ext.cli.build_settings import add_settings, tensorrt_settings_of
from trtllm_ext.cli.plan_table import print_plan, print_tensors
from trtllm_ext.cli.ranks import as_rank, is_first, on_all
from trtllm_ext.cli.terminal import human_bytes, progress
from trtllm_ext.cli.trtllm_build_flags import add_flags, settings_of
from trtllm_ext.errors import ConfigError

if TYPE_CHECKING:
    from trtllm_ext.builder import BuildConfig
    from trtllm_ext.parallel import Communicator

SIZES = {
    "max_batch_size": "most sequences in one run (default: 2048)",
    "opt_batch_size": "number of sequences to tune for (default: 8)",
    "max_input_len": "most tokens of one sequence (default: 1024, or what the model has positions for)",
    "max_seq_len": "bound for max_input_len (default: the model's positions)",
    "max_num_tokens": "most packed tokens in one run (default: 8192)",
    "opt_num_tokens": "number of packed tokens to tune for (default: min(max_batch_size, max_num_tokens))",
}
_SWITCHES = {
    "enable_debug_output": "the same as --taps '*'",
    "deterministic": "keep to optimisations after which a build with taps and one without agree bit for bit",
    "sequence_parallel": "of several ranks: each keeps a share of the tokens between sublayers",
}
_PLUGINS = {
    "ffn_plugin": "whole feed-forwards by a plugin: auto, or a type (float32, float16, bfloat16) for layers of that "
    "type; disable (default) for TensorRT's own layers",
    "residual_norm_plugin": "norms, with the residual sum that they read: likewise",
    "gated_activation_plugin": "activations of feed-forwards and experts: likewise",
}
_TEXTS = {
    "profiling_verbosity": "what the engine keeps for `inspect`: layer_names_only (default), detailed, none",
    "input_timing_cache": "file of measured times to start from; one that does not fit is left aside",
    "output_timing_cache": "where to write the measured times (default with TensorRT: model.cache)",
}


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    parser = commands.add_parser("build", help="a checkpoint directory to an engine directory")
    parser.add_argument(
        "--checkpoint_dir", required=True, metavar="DIR", help="what `trtllm-ext convert` wrote"
    )
    parser.add_argument(
        "--output_dir",
        default="engine_outputs",
        metavar="DIR",
        help="the engine directory to write (default: engine_outputs)",
    )
    parser.add_argument(
        "--build_config", metavar="FILE", help="BuildConfig as JSON, with trtllm-build's names"
    )
    parser.add_argument(
        "--from-engine",
        "--from_engine",
        metavar="DIR",
        help="an engine directory whose build config to start from, such as one for another device",
    )
    for name, text in SIZES.items():
        parser.add_argument(f"--{name}", type=int, metavar="N", help=text)
    for name, text in _TEXTS.items():
        parser.add_argument(f"--{name}", metavar="TEXT", help=text)
    for name, text in _PLUGINS.items():
        parser.add_argument(f"--{name}", metavar="CHOICE", help=text)
    parser.add_argument(
        "--taps",
        nargs="+",
        action="extend",
        metavar="NAME",
        help="tensors inside the model that become outputs: dotted names, or patterns such as '*.contribution'",
    )
    parser.add_argument(
        "--surgery",
        nargs="+",
        action="extend",
        metavar="NAME",
        help="values of the residual stream that a run may change by inputs of its own, which it may leave out: names "
        "or patterns as of --taps, such as '*.mlp.contribution'",
    )
    for name, text in _SWITCHES.items():
        parser.add_argument(f"--{name}", action="store_true", default=None, help=text)
    add_settings(parser)
    parser.add_argument("--allow_nan", action="store_true", help="accept NaN and infinity in weights")
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes that build ranks (default: 1)"
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="check everything up to the networks, and tell of each rank's; write nothing",
    )
    parser.add_argument(
        "--tp_size", type=int, metavar="N", help="with --dry_run: plan for N ranks, whatever the checkpoint's"
    )
    add_flags(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    from trtllm_ext import parallel

    def command(world: "Communicator | None") -> int:
        config, _ = on_all(world, lambda: _config_of(arguments))
        if arguments.dry_run or config.dry_run:
            return on_all(world, lambda: _plan(arguments, config) if is_first(world) else 0)[0]
        return _build(arguments, config, world)

    return as_rank(parallel.world(), command)


def _config_of(arguments: argparse.Namespace) -> "BuildConfig":
    from trtllm_ext.builder.rebuilding import with_changes

    config = _base_of(arguments)
    flags: dict[str, Any] = {
        name: value
        for name in (*SIZES, *_TEXTS, *_SWITCHES, "taps", "surgery")
        if (value := getattr(arguments, name)) is not None
    }
    flags.update(settings_of(arguments))
    flags.update(tensorrt_settings_of(arguments))
    if "memory_pool_limits" in flags:
        flags["memory_pool_limits"] = {**config.memory_pool_limits, **flags["memory_pool_limits"]}
    if "plugin_config" in flags:
        flags["plugin_config"] = {**config.plugin_config, **flags["plugin_config"]}
    if flags:
        config = with_changes(config, flags) if arguments.from_engine else config.updated(**flags)
    if arguments.tp_size is not None and not (arguments.dry_run or config.dry_run):
        from trtllm_ext.checkpoint.sharding import ways_to_ranks

        raise ConfigError(
            f"--tp_size {arguments.tp_size} is for --dry_run, which shows what that would give: an engine has the "
            f"ranks of its checkpoint. To have {arguments.tp_size}, {ways_to_ranks(arguments.tp_size)}."
        )
    return config


def _base_of(arguments: argparse.Namespace) -> "BuildConfig":
    """What the flags change: an engine's build config, with what the file of --build_config says instead."""
    from trtllm_ext.builder import BuildConfig
    from trtllm_ext.builder.rebuilding import build_config_of_engine, with_changes
    from trtllm_ext.runtime.json_files import read_json_object

    path = arguments.build_config
    given = BuildConfig.from_json_file(path) if path else BuildConfig()
    if not arguments.from_engine:
        return given
    stored = build_config_of_engine(arguments.from_engine, arguments.checkpoint_dir)
    if not path:
        return stored
    changed = with_changes(stored, read_json_object(Path(path), ConfigError))
    return replace(changed, explicit=stored.explicit, from_file=given.from_file)


def _build(arguments: argparse.Namespace, config: "BuildConfig", world: "Communicator | None") -> int:
    from trtllm_ext.builder import EngineConfig, build_engine_dir
    from trtllm_ext.runtime import EngineDir
    from trtllm_ext.runtime.host_check import filling

    start = time.monotonic()
    with progress("build") if is_first(world) else nullcontext() as tell:
        build_engine_dir(
            arguments.checkpoint_dir,
            arguments.output_dir,
            config,
            allow_nan=arguments.allow_nan,
            progress=tell,
            workers=arguments.workers,
            communicator=world,
        )
    if not is_first(world):
        return 0
    directory = EngineDir.read(arguments.output_dir)
    envelope = directory.envelope
    ranks = f", {envelope.world_size} ranks" if envelope.world_size > 1 else ""
    size = sum(
        EngineDir.read(arguments.output_dir, rank).envelope.engine_bytes
        for rank in range(envelope.world_size)
    )
    print(
        f"{arguments.output_dir}: {envelope.engine_kind} engine for {envelope.compute_capability}{ranks}, "
        f"{human_bytes(size)}, built in {time.monotonic() - start:.1f} s"
    )
    print_tensors(envelope.inputs, envelope.outputs)
    _print_fusion(EngineConfig.from_dict(directory.config))
    if envelope.is_stripped:
        print(f"  holds no weights: next {filling(arguments.output_dir, arguments.checkpoint_dir)}")
    return 0


def _plan(arguments: argparse.Namespace, config: "BuildConfig") -> int:
    from trtllm_ext.builder import plan_build

    plan = plan_build(
        arguments.checkpoint_dir, config, allow_nan=arguments.allow_nan, tp_size=arguments.tp_size
    )
    print_plan(plan)
    _print_fusion(plan.config)
    return 0


def _print_fusion(config: Any) -> None:
    from trtllm_ext.builder.taps import AGREEMENT

    if config.taps and config.fusion_level:
        print(f"  fusion level {config.fusion_level}: {AGREEMENT[config.fusion_level]}")
