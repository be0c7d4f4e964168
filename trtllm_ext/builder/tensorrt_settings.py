"""The settings of a build on a `trt.IBuilderConfig`, as far as the library in use has them.

What a library has is asked of the library: a flag's enumerator, a pool's, a property of the config. A setting that is
asked for and that it lacks is a ConfigError. The embedded engine has them all; those that choose among GPU kernels or
share out a GPU's memory change nothing there (docs/building.md lists them).
"""

import difflib
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from trtllm_ext import backend
from trtllm_ext.builder.build_config import SETTINGS, BuildConfig
from trtllm_ext.errors import ConfigError

# Names that BuildConfig and `Builder.create_builder_config` share, with what asks for nothing.
DEFAULTS: dict[str, Any] = {
    "use_refit": False,
    "use_strip_plan": False,
    "weight_streaming": False,
    "weight_sparsity": False,
    "tf32": True,
    "version_compatible": False,
    "hardware_compatibility_level": "none",
    "builder_optimization_level": None,
    "memory_pool_limits": {},
    "profiling_verbosity": "layer_names_only",
}
# Settings that the embedded engine keeps and has no use for, with what is so there, asked for or not.
_NO_EFFECT = {
    "memory_pool_limits": "it takes memory as it needs it",
    "weight_sparsity": "it has no kernels for sparse weights",
    "weight_streaming": "weights are in the host's memory",
    "tf32": "float32 is computed in float32",
    "version_compatible": "any release that reads the plan's format runs it",
    "hardware_compatibility_level": "any CPU runs the plan",
    "precision_constraints": "each layer keeps to its precision",
    "timing_cache": "it times nothing",
}
_WITHOUT_EFFECT = {**{name: DEFAULTS.get(name) for name in _NO_EFFECT}, "precision_constraints": "obey"}
# TensorRT-LLM's programs pass it, to releases that keep it as an attribute.
_CALLED_ELSEWHERE = {"opt_level": "builder_optimization_level"}
# Above it lie slips of the fingers, below names of one's own such as pipeline_parallel.
_SLIP = 0.8

_WAY_OUT = "Leave it out, or install a newer TensorRT"

_log = logging.getLogger(__name__)


def settings_of(build_config: BuildConfig) -> dict[str, Any]:
    """The part of a build config that `apply_settings` takes."""
    return {name: getattr(build_config, name) for name in DEFAULTS}


def apply_settings(trt: Any, config: Any, settings: Mapping[str, Any]) -> None:
    """Put settings on a `trt.IBuilderConfig`.

    settings: by the names of DEFAULTS; those left out ask for nothing. What else is among them is not put on it;
    where it has no effect on the embedded engine, a line of the log (INFO) says so as of the others.
    Raises ConfigError for one that the library lacks, or that it has no such value of.
    """
    asked = {**DEFAULTS, **settings}
    for name, flag in (
        ("weight_streaming", "WEIGHT_STREAMING"),
        ("weight_sparsity", "SPARSE_WEIGHTS"),
        ("version_compatible", "VERSION_COMPATIBLE"),
    ):
        if asked[name]:
            set_flag(trt, config, flag, f"{name}=True")
    _set_refit(trt, config, asked["use_refit"], asked["use_strip_plan"])
    if not asked["tf32"]:
        config.clear_flag(_flag(trt, "TF32", "tf32=False"))
    if asked["hardware_compatibility_level"] != DEFAULTS["hardware_compatibility_level"]:
        _set_hardware_level(trt, config, asked["hardware_compatibility_level"])
    if asked["builder_optimization_level"] is not None:
        _set_optimization_level(trt, config, asked["builder_optimization_level"])
    _limit_pools(trt, config, asked["memory_pool_limits"])
    config.profiling_verbosity = _member(
        trt, "ProfilingVerbosity", asked["profiling_verbosity"], "profiling_verbosity"
    )
    if backend.choice().engine == "embedded":
        _tell_what_has_no_effect(asked)


def warn_of_slips(extra: Mapping[str, Any], parameters: Iterable[str]) -> None:
    """Log a warning for each extra name near to one that is a setting; others are whoever's own.

    extra: what `Builder.create_builder_config` was given besides its parameters.
    """
    known = [*parameters, *DEFAULTS]
    for name in sorted(set(extra) - set(SETTINGS) - set(known)):
        meant = _CALLED_ELSEWHERE.get(name) or "".join(difflib.get_close_matches(name, known, 1, _SLIP))
        if meant:
            _log.warning(
                "create_builder_config(%s=%r) is an attribute alone, and changes no build. Did you mean %s?",
                name,
                extra[name],
                meant,
            )


def _tell_what_has_no_effect(asked: Mapping[str, Any]) -> None:
    """Log a line for each setting that asks for what the embedded engine does not do."""
    for name, why in _NO_EFFECT.items():
        if asked.get(name, _WITHOUT_EFFECT[name]) not in (None, _WITHOUT_EFFECT[name]):
            _log.info("%s=%r has no effect on the embedded engine: %s.", name, asked[name], why)
    from trtllm_ext.embedded.fusion import BASIC_OPTIMIZATION_LEVEL

    name = "builder_optimization_level"
    if (asked[name] or 0) > BASIC_OPTIMIZATION_LEVEL:
        _log.info(
            "%s=%r has no effect on the embedded engine: from 2 on operators are fused, as by default.",
            name,
            asked[name],
        )


def set_flag(trt: Any, config: Any, name: str, setting: str, way_out: str = _WAY_OUT) -> None:
    """Set a builder flag by name. setting: what asks for it; the ConfigError where there is none ends in way_out."""
    config.set_flag(_flag(trt, name, setting, way_out))


def keep_to_basic_fusion(config: Any, level_asked: int | None) -> None:
    """Settings of BuildConfig's `deterministic`; ConfigError for TensorRT, and for a level asked that goes further."""
    if backend.choice().engine != "embedded":
        raise ConfigError(
            "deterministic=True is refused: TensorRT chooses kernels by timing them, and has no setting by which two "
            f"builds compute alike. Leave it out, or build with {backend.ENVIRONMENT_VARIABLE}=embedded."
        )
    from trtllm_ext.embedded.fusion import BASIC_OPTIMIZATION_LEVEL

    if level_asked is None:
        config.builder_optimization_level = BASIC_OPTIMIZATION_LEVEL
    elif level_asked > BASIC_OPTIMIZATION_LEVEL:
        raise ConfigError(
            f"deterministic=True keeps to builder_optimization_level {BASIC_OPTIMIZATION_LEVEL} or less, and "
            f"{level_asked} is asked for. Leave one of them out."
        )


def library(trt: Any) -> str:
    """The library in use, for messages: its name and version."""
    if backend.choice().engine == "embedded":
        return "the embedded engine"
    return f"TensorRT {getattr(trt, '__version__', 'of unknown version')}"


def lacks(trt: Any, setting: str, what: str, way_out: str = _WAY_OUT) -> ConfigError:
    """The error for a setting that the library in use has nothing for."""
    return ConfigError(f"{setting} is asked for, but {library(trt)} has no {what}. {way_out}.")


def _flag(trt: Any, name: str, setting: str, way_out: str = _WAY_OUT) -> Any:
    flags = trt.BuilderFlag.__members__
    if name not in flags:
        raise lacks(trt, setting, f"BuilderFlag.{name}", way_out)
    return flags[name]


def _set_refit(trt: Any, config: Any, use_refit: bool, use_strip_plan: bool) -> None:
    """Refit of the parameters alone where the library lets them be marked, else of all weights.

    A constant of the network that is no parameter then stays as it is: a stripped plan keeps it, and the builder may
    fold it.
    """
    if use_strip_plan:
        set_flag(trt, config, "STRIP_PLAN", "use_strip_plan=True")
    if use_refit or use_strip_plan:
        names = trt.BuilderFlag.__members__
        setting = "use_strip_plan=True" if use_strip_plan else "use_refit=True"
        individual = "REFIT_INDIVIDUAL" in names
        set_flag(trt, config, "REFIT_INDIVIDUAL" if individual else "REFIT", setting)


def _set_hardware_level(trt: Any, config: Any, level: str) -> None:
    name = "hardware_compatibility_level"
    if not hasattr(config, name):
        raise lacks(trt, f"{name}={level!r}", f"IBuilderConfig.{name}")
    config.hardware_compatibility_level = _member(trt, "HardwareCompatibilityLevel", level, name)


def _set_optimization_level(trt: Any, config: Any, level: int) -> None:
    name = "builder_optimization_level"
    if not hasattr(config, name):
        raise lacks(trt, f"{name}={level}", f"IBuilderConfig.{name}")
    config.builder_optimization_level = level


def _limit_pools(trt: Any, config: Any, limits: Mapping[str, int]) -> None:
    for pool, size in limits.items():
        config.set_memory_pool_limit(_member(trt, "MemoryPoolType", pool, "memory pool"), size)


def _member(trt: Any, enumeration: str, value: str, setting: str) -> Any:
    members = getattr(trt, enumeration).__members__
    if value.upper() not in members:
        known = ", ".join(name.lower() for name in members)
        raise ConfigError(
            f"{setting}={value!r} is not known; it is one of {known} in {library(trt)}. Give one of these, or install "
            f"a TensorRT that has {enumeration}.{value.upper()}."
        )
    return members[value.upper()]
