"""BuildConfig: what `trtllm-build` calls its size limits and switches, as checked data."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trtllm_ext.builder.plugin_settings import plugin_problems
from trtllm_ext.builder.setting_checks import (
    PRECISION_CONSTRAINTS,
    PROFILING_VERBOSITIES,
    check_at_least,
    check_memory_pools,
    check_names,
    check_one_of,
    check_optimization_level,
    check_type,
    in_bytes,
    means_nothing,
)
from trtllm_ext.builder.tensorrt_llm_config import without_its_own
from trtllm_ext.errors import ConfigError
from trtllm_ext.runtime.envelope import HARDWARE_COMPATIBILITY_LEVELS
from trtllm_ext.runtime.json_files import read_json_object
from trtllm_ext.suggest import nearest

# Settings of TensorRT-LLM that only its decoders have a use for: taken over so that its files can be read,
# refused when they ask for something.
_DECODER_ONLY = (
    "max_beam_width",
    "max_prompt_embedding_table_size",
    "kv_cache_type",
    "gather_context_logits",
    "gather_generation_logits",
    "max_draft_len",
    "speculative_decoding_mode",
    "lora_config",
    "max_encoder_input_len",
    "use_mrope",
)
# Lists of names, kept as tuples.
_NAMES = ("taps", "surgery")
# The others, each with what to do instead of asking for it.
_NOT_OFFERED = {
    "visualize_network": "Leave it out; `trtllm-ext inspect` lists the layers of an engine",
    "monitor_memory": "Leave it out, and measure the process from outside (such as /usr/bin/time -v)",
}


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """Limits and switches of a build, with TensorRT-LLM's names and defaults. Immutable; see `updated`.

    max_batch_size, opt_batch_size: sequences in one run. max_input_len: tokens of one sequence.
    max_num_tokens, opt_num_tokens: packed tokens in one run; opt_num_tokens None means
    min(max_batch_size * max_beam_width, max_num_tokens), as trtllm-build has it.
    max_seq_len: upper bound for max_input_len; None means the model's own.
    taps: dotted names, or patterns of `fnmatch`, of tensors inside the model that become outputs, such as
    `*.contribution`. enable_debug_output: tap everything there is, as `taps=["*"]` does.
    surgery: names or patterns, likewise, of what a run may change by inputs of its own (`builder.surgery`).
    deterministic: the embedded engine keeps to rewritings that leave every number as it is, so that a build with taps
    and one without agree bit for bit. NVIDIA's engine has nothing like it, and refuses.
    sequence_parallel: between sublayers each of several ranks keeps a share of the tokens, and norms and adds its
    residuals alone: reduce-scatter and all-gather take the place of each all-reduce. Refused with one rank.
    use_refit: the engine's weights can be exchanged (`trtllm-ext refit`). use_strip_plan: the engine holds none of
    them, and `trtllm-ext refit` fills it before it runs. weight_streaming: part of the weights may stay outside the
    device's memory (`Session`'s gpu_weights_percent). weight_sparsity: kernels for sparse weights may be used.
    input_timing_cache, output_timing_cache: files of measured times, to start from and to write.
    builder_optimization_level: 0 to 5; None means TensorRT's default. tf32: float32 products may round their factors to
    10 bits. version_compatible: later releases of TensorRT may run the engine. hardware_compatibility_level: 'none',
    'ampere_plus' or 'same_compute_capability'. memory_pool_limits: bytes by pool, such as {"workspace": 1 << 30}; in
    texts, "1GiB".
    precision_constraints: 'obey', or 'prefer', by which TensorRT may compute layers of a weakly typed network (8.6) in
    another precision; strongly typed networks have no use for it.
    Which library has which of these: `builder.tensorrt_settings`; a build refuses what the one in use lacks.
    plugin_config: `ffn_plugin`, `residual_norm_plugin` and `gated_activation_plugin`, each None, 'auto' or a type, as
    `graph.plugin_config.PluginConfig` has them; of trtllm-build's names only values that ask for no plugin.

    Raises ConfigError (a ValueError) for unknown keys, wrong types, and limits that contradict each other.
    """

    max_input_len: int = 1024
    max_seq_len: int | None = None
    opt_batch_size: int = 8
    max_batch_size: int = 2048
    max_beam_width: int = 1
    max_num_tokens: int = 8192
    opt_num_tokens: int | None = None
    max_prompt_embedding_table_size: int = 0
    kv_cache_type: str | None = None
    gather_context_logits: bool = False
    gather_generation_logits: bool = False
    strongly_typed: bool = True
    force_num_profiles: int | None = None
    profiling_verbosity: str = "layer_names_only"
    enable_debug_output: bool = False
    max_draft_len: int = 0
    speculative_decoding_mode: int | str = 1
    use_refit: bool = False
    input_timing_cache: str | None = None
    output_timing_cache: str = "model.cache"
    lora_config: dict[str, Any] = field(default_factory=dict)
    weight_sparsity: bool = False
    weight_streaming: bool = False
    plugin_config: dict[str, Any] = field(default_factory=dict)
    use_strip_plan: bool = False
    max_encoder_input_len: int = 1024
    dry_run: bool = False
    visualize_network: str | bool | None = None
    monitor_memory: bool = False
    use_mrope: bool = False
    taps: tuple[str, ...] = ()
    surgery: tuple[str, ...] = ()
    deterministic: bool = False
    sequence_parallel: bool = False
    builder_optimization_level: int | None = None
    tf32: bool = True
    version_compatible: bool = False
    hardware_compatibility_level: str = "none"
    precision_constraints: str = "obey"
    memory_pool_limits: dict[str, int] = field(default_factory=dict)
    # Names given on purpose although their value is the default, such as a flag on the command line.
    explicit: frozenset[str] = field(default=frozenset(), repr=False, compare=False)
    # Names that stood in a JSON file, where trtllm-build's limits for any model are usual; what was given on purpose
    # besides is not among them.
    from_file: frozenset[str] = field(default=frozenset(), repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in _NAMES:
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in SETTINGS:
            check_type(name, getattr(self, name), SETTINGS[name])
        pools = {pool: in_bytes(size) for pool, size in self.memory_pool_limits.items()}
        object.__setattr__(self, "memory_pool_limits", pools)
        self._check_limits()
        self._check_offered()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, explicit: Iterable[str] = ()) -> "BuildConfig":
        """A config from plain data; keys that are left out get their defaults, unknown ones are refused."""
        values = without_its_own(values)
        if unknown := [name for name in values if name not in SETTINGS]:
            raise ConfigError(
                " ".join(f"unknown build config key {name!r}. {nearest(name, SETTINGS)}" for name in unknown)
            )
        return cls(**values, explicit=frozenset(explicit))

    @classmethod
    def from_json_file(cls, path: str | Path) -> "BuildConfig":
        """A config from a JSON file. Limits that a model has no use for are then left out instead of refused."""
        values = read_json_object(Path(path), ConfigError)
        try:
            return replace(cls.from_dict(values), from_file=frozenset(values))
        except ConfigError as problem:
            raise ConfigError(f"{path}: {problem}") from problem

    def to_dict(self) -> dict[str, Any]:
        """All settings as plain data; `from_dict` reads it back."""
        values = {name: getattr(self, name) for name in SETTINGS}
        return values | {name: list(values[name]) for name in _NAMES}

    def updated(self, **changes: Any) -> "BuildConfig":
        """A copy with some settings changed; they count as given on purpose."""
        changed = self.from_dict({**self.to_dict(), **changes}, explicit=self.explicit | set(changes))
        return replace(changed, from_file=self.from_file - set(changes))

    @property
    def tap_patterns(self) -> tuple[str, ...]:
        """What `taps` and `enable_debug_output` ask for together."""
        return ("*",) if self.enable_debug_output else self.taps

    @property
    def given(self) -> frozenset[str]:
        """Settings that somebody chose: named on purpose, or different from their defaults."""
        return self.explicit | {name for name, default in SETTINGS.items() if getattr(self, name) != default}

    def _check_limits(self) -> None:
        for name in ("max_batch_size", "opt_batch_size", "max_input_len", "max_num_tokens", "max_beam_width"):
            check_at_least(name, getattr(self, name), 1)
        for name in ("max_seq_len", "opt_num_tokens", "force_num_profiles"):
            if getattr(self, name) is not None:
                check_at_least(name, getattr(self, name), 1)
        for name in ("max_prompt_embedding_table_size", "max_draft_len", "max_encoder_input_len"):
            check_at_least(name, getattr(self, name), 0)
        self._check_order("opt_num_tokens", "max_num_tokens")
        # The default of opt_batch_size is a wish: it bends to a smaller max_batch_size.
        if "opt_batch_size" in self.given:
            self._check_order("opt_batch_size", "max_batch_size")
        if "max_input_len" in self.given:
            self._check_order("max_input_len", "max_seq_len")
        check_one_of("profiling_verbosity", self.profiling_verbosity, PROFILING_VERBOSITIES)
        check_one_of(
            "hardware_compatibility_level", self.hardware_compatibility_level, HARDWARE_COMPATIBILITY_LEVELS
        )
        check_one_of("precision_constraints", self.precision_constraints, PRECISION_CONSTRAINTS)
        check_optimization_level(self.builder_optimization_level)
        check_memory_pools(self.memory_pool_limits)
        if self.weight_streaming and not self.strongly_typed:
            raise ConfigError(
                "weight_streaming=True with strongly_typed=False: TensorRT streams weights of strongly typed networks "
                "only. Leave strongly_typed at true."
            )

    def _check_order(self, smaller: str, larger: str) -> None:
        low, high = getattr(self, smaller), getattr(self, larger)
        if low is not None and high is not None and low > high:
            raise ConfigError(
                f"{smaller}={low} is greater than {larger}={high}. Lower the one or raise the other."
            )

    def _check_offered(self) -> None:
        """All that is not offered in one error, since files written for trtllm-build may hold several such things."""
        asked = {name for name in SETTINGS if getattr(self, name) != SETTINGS[name]}
        asked = {name for name in asked if not means_nothing(getattr(self, name))}
        problems = [
            f"{name}={getattr(self, name)!r} is a setting for decoders that generate text, and no model of this "
            f"package does. Leave it out (its default is {SETTINGS[name]!r})."
            for name in _DECODER_ONLY
            if name in asked
        ]
        problems += [
            f"{name}={getattr(self, name)!r} is not offered by this package. {instead}."
            for name, instead in _NOT_OFFERED.items()
            if name in asked
        ]
        problems += plugin_problems(self.plugin_config)
        if problems:
            raise ConfigError(" ".join(problems))
        check_names("taps", self.taps)
        check_names("surgery", self.surgery)


SETTINGS: dict[str, Any] = {
    item.name: item.default if item.default is not dataclasses.MISSING else {}
    for item in dataclasses.fields(BuildConfig)
    if item.name not in ("explicit", "from_file")
}
