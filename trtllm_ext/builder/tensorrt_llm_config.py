"""Build configs as TensorRT-LLM writes them: what stands in each of them, asked for or not, asks for nothing here."""

from collections.abc import Mapping
from typing import Any

from trtllm_ext.errors import ConfigError

# What trtllm-build writes for every model; in lower case, as its flag has it, somebody asked.
_WRITTEN_CACHE_TYPES = ("PAGED", "CONTINUOUS", "DISABLED")


def without_its_own(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a build config in JSON, less those that TensorRT-LLM fills in by itself.

    Left out: `kv_cache_type` in upper case, a `lora_config` without adapters, and of release 0.16 `use_fused_mlp`
    and an `auto_parallel_config` of one rank.
    Raises ConfigError for an `auto_parallel_config` of more ranks.
    """
    split = values.get("auto_parallel_config")
    if isinstance(split, Mapping) and split.get("world_size", 1) != 1:
        raise ConfigError(
            f"auto_parallel_config: world_size={split['world_size']!r} asks for a split that the builder chooses, and "
            "how a model is split is said by its checkpoint's mapping. Leave it out."
        )
    return {name: value for name, value in values.items() if not _is_its_own(name, value)}


def _is_its_own(name: str, value: Any) -> bool:
    if name == "kv_cache_type":
        return value in _WRITTEN_CACHE_TYPES
    if name == "lora_config":
        asked = ("lora_dir", "lora_target_modules", "trtllm_modules_to_hf_modules")
        return isinstance(value, Mapping) and not any(value.get(key) for key in asked)
    if name == "auto_parallel_config":
        return isinstance(value, Mapping)
    return name == "use_fused_mlp" and isinstance(value, bool)
