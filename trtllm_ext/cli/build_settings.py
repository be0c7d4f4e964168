"""Flags of `build` that become TensorRT's own settings (builder/tensorrt_settings.py)."""

import argparse
from typing import Any

from trtllm_ext.errors import ConfigError

# flag -> (setting, value that it stands for, help).
_SWITCHES: dict[str, tuple[str, bool, str]] = {
    "use_refit": ("use_refit", True, "weights can be exchanged later, by `trtllm-ext refit`"),
    "strip_plan": (
        "use_strip_plan",
        True,
        "leave the weights out of the engine; `trtllm-ext refit` puts them in before it runs",
    ),
    "weight_streaming": (
        "weight_streaming",
        True,
        "weights may stay outside the device's memory (--gpu_weights_percent of `run`)",
    ),
    "weight_sparsity": ("weight_sparsity", True, "use kernels for sparse weights where there are any"),
    "no_tf32": ("tf32", False, "multiply float32 in float32, not in TF32 with its 10 bits"),
    "version_compatible": ("version_compatible", True, "let later releases of TensorRT run the engine"),
}
_NUMBERS = {
    "builder_optimization_level": "0 (builds fast) to 5 (searches longest); TensorRT's own choice is 3",
    "force_num_profiles": "number of optimization profiles to keep, the first ones",
}


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    for name, (_, _, text) in _SWITCHES.items():
        parser.add_argument(f"--{name}", action="store_true", default=None, help=text)
    for name, text in _NUMBERS.items():
        parser.add_argument(f"--{name}", type=int, metavar="N", help=text)
    parser.add_argument(
        "--hardware_compatibility_level",
        metavar="NAME",
        help="which other GPUs may run the engine: none (default), ampere_plus, same_compute_capability",
    )
    parser.add_argument(
        "--precision_constraints",
        metavar="NAME",
        help="of weakly typed networks (8.6): obey each layer's precision (default), or prefer it",
    )
    parser.add_argument(
        "--memory_pool_limit",
        action="append",
        metavar="POOL=SIZE",
        help="such as workspace=1GiB; may be given several times, once a pool",
    )


def tensorrt_settings_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings of BuildConfig that the flags given amount to. Raises ConfigError for a limit that is no size."""
    settings: dict[str, Any] = {
        name: value
        for name in (*_NUMBERS, "hardware_compatibility_level", "precision_constraints")
        if (value := getattr(arguments, name)) is not None
    }
    for name, (setting, value, _) in _SWITCHES.items():
        if getattr(arguments, name):
            settings[setting] = value
    if arguments.memory_pool_limit is not None:
        limits: dict[str, int] = {}
        for pool, size in map(_pool_limit, arguments.memory_pool_limit):
            if pool in limits:
                raise ConfigError(f"--memory_pool_limit: {pool} is given twice. Give one limit a pool.")
            limits[pool] = size
        settings["memory_pool_limits"] = limits
    return settings


def _pool_limit(text: str) -> tuple[str, int]:
    from trtllm_ext.builder.setting_checks import UNITS, in_bytes

    pool, _, size = text.partition("=")
    number = in_bytes(size)
    if not pool or not isinstance(number, int):
        raise ConfigError(
            f"--memory_pool_limit {text}: expected POOL=SIZE such as workspace=1GiB; units are "
            f"{', '.join(filter(None, UNITS))}, and bytes without one."
        )
    return pool, number
