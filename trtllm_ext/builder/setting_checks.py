"""Checks of single settings of a build config: type, range, and names that TensorRT's enumerators have."""

import re
from collections.abc import Mapping
from typing import Any

from trtllm_ext.errors import ConfigError
from trtllm_ext.suggest import nearest

PROFILING_VERBOSITIES = ("layer_names_only", "detailed", "none")
PRECISION_CONSTRAINTS = ("obey", "prefer")
MEMORY_POOLS = (
    "workspace",
    "dla_managed_sram",
    "dla_local_dram",
    "dla_global_dram",
    "tactic_dram",
    "tactic_shared_memory",
)
MOST_OPTIMIZATION_LEVEL = 5

UNITS = {
    "": 1,
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
}

_TYPES: dict[str, tuple[type, ...]] = {
    "max_seq_len": (int, type(None)),
    "opt_num_tokens": (int, type(None)),
    "force_num_profiles": (int, type(None)),
    "builder_optimization_level": (int, type(None)),
    "kv_cache_type": (str, type(None)),
    "profiling_verbosity": (str,),
    "hardware_compatibility_level": (str,),
    "precision_constraints": (str,),
    "speculative_decoding_mode": (int, str),
    "input_timing_cache": (str, type(None)),
    "output_timing_cache": (str,),
    "lora_config": (dict,),
    "plugin_config": (dict,),
    "memory_pool_limits": (dict,),
    "taps": (tuple,),
    "surgery": (tuple,),
    "visualize_network": (str, bool, type(None)),
}
_WORDS = {
    int: "a whole number",
    bool: "true or false",
    str: "a text",
    dict: "an object",
    type(None): "null",
    tuple: "a list",
}
_MOST_BYTES = 2**63 - 1


def check_type(name: str, value: Any, default: Any) -> None:
    """Raise ConfigError unless `value` has a type that the setting takes; true is no number."""
    allowed = _TYPES.get(name) or ((bool,) if isinstance(default, bool) else (int,))
    if type(value) not in allowed:
        raise ConfigError(
            f"{name}={value!r} is {_word(value)}, expected {' or '.join(_WORDS[kind] for kind in allowed)}."
        )


def check_at_least(name: str, value: int, least: int) -> None:
    """Raise ConfigError unless `value` is a size of a dimension, `least` or more."""
    if value < least:
        raise ConfigError(f"{name}={value} is too small; it must be at least {least}.")
    if value >= 1 << 31:
        raise ConfigError(f"{name}={value} is too large; dimensions have 31 bits.")


def check_names(setting: str, names: tuple[Any, ...]) -> None:
    """Raise ConfigError unless all are names."""
    for name in names:
        if not isinstance(name, str) or not name:
            raise ConfigError(
                f"{setting}: {name!r} is no name; give names of tensors such as "
                "'transformer.layers.0.mlp.contribution', or patterns such as '*.contribution'."
            )


def check_one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    """Raise ConfigError unless `value` is one of the names known."""
    if value not in known:
        raise ConfigError(f"{name}={value!r} is not known; it is one of {', '.join(known)}.")


def check_optimization_level(value: int | None) -> None:
    """Raise ConfigError unless `value` is a level of TensorRT's builder, 0 to 5, or None."""
    if value is not None and not 0 <= value <= MOST_OPTIMIZATION_LEVEL:
        raise ConfigError(
            f"builder_optimization_level={value} is out of range; TensorRT has levels 0 (builds fast) to "
            f"{MOST_OPTIMIZATION_LEVEL} (searches longest), 3 by default."
        )


def check_memory_pools(limits: Mapping[str, Any]) -> None:
    """Raise ConfigError for a pool that TensorRT has not, or a limit that is no number of bytes."""
    for pool, size in limits.items():
        if pool not in MEMORY_POOLS:
            raise ConfigError(
                f"memory_pool_limits: {pool!r} is no memory pool. {nearest(str(pool), MEMORY_POOLS)}"
            )
        if type(size) is not int:
            raise ConfigError(
                f"memory_pool_limits: {pool}={size!r} is {_word(size)}, expected bytes, a whole number or such as "
                f"'1GiB'."
            )
        if not 0 <= size <= _MOST_BYTES:
            raise ConfigError(
                f"memory_pool_limits: {pool}={size} is out of range; a limit is 0 to 2^63 - 1 bytes."
            )


def in_bytes(size: Any) -> Any:
    """The number of a text such as "512" or "1GiB"; anything else as it is, for the checks to tell of."""
    match = re.fullmatch(r"(\d+) ?(\w*)", size) if isinstance(size, str) else None
    return int(match[1]) * UNITS[match[2]] if match and match[2] in UNITS else size


def means_nothing(value: Any) -> bool:
    """Whether a value asks for nothing, as build configs write it."""
    plain = value.lower() if isinstance(value, str) else value
    return plain in (None, False, 0, "", "disabled", "disable") or plain == {}


def _word(value: Any) -> str:
    return _WORDS.get(type(value), "a " + type(value).__name__)
