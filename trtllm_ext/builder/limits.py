"""From a BuildConfig to the limits that one model's profiles are made of."""

import inspect
import logging
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from trtllm_ext.builder.build_config import SETTINGS, BuildConfig
from trtllm_ext.errors import ConfigError

# What a model may have a use for, and the sentence for one that has not.
_MEANING = {
    "max_batch_size": "counts sequences",
    "opt_batch_size": "counts sequences",
    "max_input_len": "is the length of one sequence",
    "max_seq_len": "is the length of one sequence",
    "max_num_tokens": "counts packed tokens",
    "opt_num_tokens": "counts packed tokens",
}

_log = logging.getLogger(__name__)


def resolve_limits(
    config: BuildConfig,
    *,
    used: Iterable[str],
    max_position_embeddings: int | None = None,
    model: str = "the model",
) -> BuildConfig:
    """Fill in what was left open, as trtllm-build does, and refuse what cannot be meant.

    Limits that the model has no use for stay at their defaults, so the result can be given back for the same model.

    used: names of the limits that the model has a use for (`model.limits`).
    max_position_embeddings: the longest sequence that the model has positions for, when it has such a bound.
    Raises ConfigError for a limit that was given although the model has no use for it, or that the model's
    positions do not reach. Of limits that stood in a file, those without use are logged (INFO) and left out: files
    written for trtllm-build hold the limits of any model.
    """
    used = frozenset(used)
    # max_seq_len only bounds max_input_len, so whoever uses the one uses the other.
    known = used | ({"max_seq_len"} if "max_input_len" in used else set())
    config = _without_usual(config, known, model)
    if useless := sorted((config.given & set(_MEANING)) - known):
        first, takes = useless[0], ", ".join(f"--{each}" for each in sorted(used)) or "none"
        leave = f"{', '.join(useless)} out" if len(useless) > 1 else "it out"
        raise ConfigError(
            f"{first}={getattr(config, first)} {_MEANING[first]}, which {model} has no use for: "
            f"{_reason(first, used)}. Leave {leave}; limits that count here: {takes}."
        )
    longest = config.max_seq_len
    if max_position_embeddings is not None and "max_input_len" in used:
        for name in ("max_input_len", "max_seq_len"):
            value = getattr(config, name)
            if name in config.given and value is not None and value > max_position_embeddings:
                raise ConfigError(
                    f"{name}={value} is more than the {max_position_embeddings} positions that {model} was "
                    f"trained with (max_position_embeddings). Give at most {max_position_embeddings}."
                )
        longest = min(longest or max_position_embeddings, max_position_embeddings)
    if longest is None:
        longest = max(2048, config.max_input_len)
    changes = {
        "max_seq_len": longest,
        "max_input_len": min(config.max_input_len, longest),
        "opt_batch_size": min(config.opt_batch_size, config.max_batch_size),
    }
    if config.opt_num_tokens is None:
        changes["opt_num_tokens"] = min(config.max_batch_size * config.max_beam_width, config.max_num_tokens)
    useful = {name: value for name, value in changes.items() if name in known}
    return BuildConfig.from_dict({**config.to_dict(), **useful}, explicit=config.explicit)


def _without_usual(config: BuildConfig, known: frozenset[str], model: str) -> BuildConfig:
    """Without the limits of a file that the model has no use for."""
    names = sorted((config.given & config.from_file & set(_MEANING)) - known - config.explicit)
    if not names:
        return config
    listed = ", ".join(f"{name}={getattr(config, name)}" for name in names)
    _log.info("%s has no use for these limits of the build config's file: %s.", model, listed)
    return replace(config, **{name: SETTINGS[name] for name in names})


def _reason(name: str, used: frozenset[str]) -> str:
    if used & {"max_num_tokens"}:
        return "it takes tokens packed into one row of vectors, whatever sequences they belong to"
    if used & {"max_input_len"}:
        return "it takes padded sequences, so their number and length are the limits"
    return f"its inputs have no dimension that {name} could bound"


def prepare_inputs_arguments(config: BuildConfig, prepare_inputs: Any) -> dict[str, Any]:
    """Arguments of a model's `prepare_inputs`, under TensorRT-LLM's names, as far as it accepts them."""
    arguments = {
        "max_batch_size": config.max_batch_size,
        "max_input_len": config.max_input_len,
        "max_seq_len": config.max_seq_len,
        "use_cache": False,
        "max_beam_width": config.max_beam_width,
        "max_num_tokens": config.max_num_tokens,
        "opt_num_tokens": config.opt_num_tokens,
        "opt_batch_size": config.opt_batch_size,
        "prompt_embedding_table_size": config.max_prompt_embedding_table_size,
        "max_draft_len": config.max_draft_len,
        "speculative_decoding_draft_tokens_external": False,
        "gather_context_logits": config.gather_context_logits,
        "lora_target_modules": None,
    }
    parameters = inspect.signature(prepare_inputs).parameters.values()
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters):
        return arguments
    accepted = {each.name for each in parameters}
    return {name: value for name, value in arguments.items() if name in accepted}
