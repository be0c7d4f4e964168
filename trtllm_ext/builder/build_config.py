"""BuildConfig: what `trtllm-build` calls its size limits and switches, as checked data."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trtllm_ext.errors import ConfigError
from trtllm_ext.runtime.json_files import read_json_object
from trtllm_ext.suggest import nearest

PROFILING_VERBOSITIES = ("layer_names_only", "detailed", "none")

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
# The others, each with what to do instead of asking for it.
_NOT_OFFERED = {
    "visualize_network": "Leave it out; `trtllm-ext inspect` lists the layers of an engine",
    "monitor_memory": "Leave it out, and measure the process from outside (such as /usr/bin/time -v)",
    "weight_sparsity": "Leave it out",
    "weight_streaming": "Leave it out",
    "use_strip_plan": "Leave it out",
    "use_refit": "Leave it out, and build again for other weights",
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
    deterministic: the embedded engine keeps to rewritings that leave every number as it is, so that a build with taps
    and one without agree bit for bit. NVIDIA's engine has nothing like it, and refuses.
    sequence_parallel: between sublayers each of several ranks keeps a share of the tokens, and norms and adds its
    residuals alone: reduce-scatter and all-gather take the place of each all-reduce. Refused with one rank.
    plugin_config: accepted for files written for trtllm-build; only values that ask for no plugin.

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
    deterministic: bool = False
    sequence_parallel: bool = False
    # Names given on purpose although their value is the default, such as a flag on the command line.
    explicit: frozenset[str] = field(default=frozenset(), repr=False, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.taps, list):
            object.__setattr__(self, "taps", tuple(self.taps))
        for name in SETTINGS:
            _check_type(name, getattr(self, name))
        self._check_limits()
        self._check_offered()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, explicit: Iterable[str] = ()) -> "BuildConfig":
        """A config from plain data; keys that are left out get their defaults, unknown ones are refused."""
        for name in values:
            if name not in SETTINGS:
                raise ConfigError(f"unknown build config key {name!r}. {nearest(name, SETTINGS)}")
        return cls(**values, explicit=frozenset(explicit))

    @classmethod
    def from_json_file(cls, path: str | Path) -> "BuildConfig":
        """A config from a JSON file."""
        values = read_json_object(Path(path), ConfigError)
        try:
            return cls.from_dict(values)
        except ConfigError as problem:
            raise ConfigError(f"{path}: {problem}") from problem

    def to_dict(self) -> dict[str, Any]:
        """All settings as plain data; `from_dict` reads it back."""
        return {name: getattr(self, name) for name in SETTINGS} | {"taps": list(self.taps)}

    def updated(self, **changes: Any) -> "BuildConfig":
        """A copy with some settings changed; they count as given on purpose."""
        return self.from_dict({**self.to_dict(), **changes}, explicit=self.explicit | set(changes))

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
            _at_least(name, getattr(self, name), 1)
        for name in ("max_seq_len", "opt_num_tokens", "force_num_profiles"):
            if getattr(self, name) is not None:
                _at_least(name, getattr(self, name), 1)
        for name in ("max_prompt_embedding_table_size", "max_draft_len", "max_encoder_input_len"):
            _at_least(name, getattr(self, name), 0)
        self._check_order("opt_num_tokens", "max_num_tokens")
        # The default of opt_batch_size is a wish: it bends to a smaller max_batch_size.
        if "opt_batch_size" in self.given:
            self._check_order("opt_batch_size", "max_batch_size")
        if "max_input_len" in self.given:
            self._check_order("max_input_len", "max_seq_len")
        if self.profiling_verbosity not in PROFILING_VERBOSITIES:
            raise ConfigError(
                f"profiling_verbosity={self.profiling_verbosity!r} is not known; it is one of "
                f"{', '.join(PROFILING_VERBOSITIES)}."
            )

    def _check_order(self, smaller: str, larger: str) -> None:
        low, high = getattr(self, smaller), getattr(self, larger)
        if low is not None and high is not None and low > high:
            raise ConfigError(
                f"{smaller}={low} is greater than {larger}={high}. Lower the one or raise the other."
            )

    def _check_offered(self) -> None:
        for name in _DECODER_ONLY:
            if getattr(self, name) != SETTINGS[name] and not _means_nothing(getattr(self, name)):
                raise ConfigError(
                    f"{name}={getattr(self, name)!r} is a setting for decoders that generate text, and no "
                    f"model of this package does. Leave it out (its default is {SETTINGS[name]!r})."
                )
        for name, instead in _NOT_OFFERED.items():
            if getattr(self, name) != SETTINGS[name] and not _means_nothing(getattr(self, name)):
                raise ConfigError(
                    f"{name}={getattr(self, name)!r} is not offered by this package. {instead}."
                )
        _check_taps(self.taps)
        check_plugin_config(self.plugin_config)


SETTINGS: dict[str, Any] = {
    item.name: item.default if item.default is not dataclasses.MISSING else {}
    for item in dataclasses.fields(BuildConfig)
    if item.name != "explicit"
}

_TYPES: dict[str, tuple[type, ...]] = {
    "kv_cache_type": (str, type(None)),
    "profiling_verbosity": (str,),
    "speculative_decoding_mode": (int, str),
    "input_timing_cache": (str, type(None)),
    "output_timing_cache": (str,),
    "lora_config": (dict,),
    "plugin_config": (dict,),
    "taps": (tuple,),
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

# PluginConfig of TensorRT-LLM: names of switches that only say how it lays out or fuses its own decoders.
_LAYOUT_SWITCHES = frozenset(
    """
    dtype context_fmha bert_context_fmha_fp32_acc paged_kv_cache paged_state remove_input_padding
    tokens_per_block use_paged_context_fmha use_fp8_context_fmha use_fused_mlp smooth_quant_plugins
    norm_quant_fusion
    """.split()  # noqa: SIM905 - a table is read by the line
)
_PLUGINS = frozenset(
    """
    bert_attention_plugin gpt_attention_plugin gemm_plugin gemm_swiglu_plugin low_latency_gemm_plugin
    low_latency_gemm_swiglu_plugin nccl_plugin moe_plugin mamba_conv1d_plugin fp8_rowwise_gemm_plugin
    qserve_gemm_plugin identity_plugin lora_plugin smooth_quant_gemm_plugin
    layernorm_quantization_plugin rmsnorm_quantization_plugin weight_only_quant_matmul_plugin
    weight_only_groupwise_quant_matmul_plugin quantize_per_token_plugin quantize_tensor_plugin
    gemm_allreduce_plugin dora_plugin streamingllm reduce_fusion user_buffer pp_reduce_scatter
    fuse_fp4_quant multiple_profiles manage_weights
    """.split()  # noqa: SIM905 - a table is read by the line
)


def check_plugin_config(values: Mapping[str, Any]) -> None:
    """Raise ConfigError for an unknown name, or one that asks for a plugin by type ("auto" leaves it to us)."""
    for name, value in values.items():
        if name not in _LAYOUT_SWITCHES | _PLUGINS:
            raise ConfigError(
                f"unknown plugin_config key {name!r}. {nearest(name, sorted(_LAYOUT_SWITCHES | _PLUGINS))}"
            )
        if name in _PLUGINS and value not in (None, False, "auto", "disable", "disabled"):
            raise ConfigError(
                f"plugin_config: {name}={value!r} asks for a plugin, and this build has none; use null, or "
                f"leave it out."
            )


def _check_type(name: str, value: Any) -> None:
    default = SETTINGS[name]
    allowed = _TYPES.get(name) or ((bool,) if isinstance(default, bool) else (int,))
    if name in ("max_seq_len", "opt_num_tokens", "force_num_profiles"):
        allowed = (int, type(None))
    # bool is an int to Python, but true is no number of tokens.
    if type(value) not in allowed:
        raise ConfigError(
            f"{name}={value!r} is {_WORDS.get(type(value), 'a ' + type(value).__name__)}, expected "
            f"{' or '.join(_WORDS[kind] for kind in allowed)}."
        )


def _check_taps(taps: tuple[Any, ...]) -> None:
    for name in taps:
        if not isinstance(name, str) or not name:
            raise ConfigError(
                f"taps: {name!r} is no name; give names of tensors such as 'transformer.layers.0.mlp.contribution', or "
                "patterns such as '*.contribution'."
            )


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"{name}={value} is too small; it must be at least {least}.")
    if value >= 1 << 31:
        raise ConfigError(f"{name}={value} is too large; dimensions have 31 bits.")


def _means_nothing(value: Any) -> bool:
    return value in (None, False, 0, "", "disabled", "disable") or value == {}
