"""From a BuildConfig to the limits that one model's profiles are made of."""

import inspect
from collections.abc import Iterable
from typing import Any

from trtllm_ext.builder.build_config import BuildConfig
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
    positions do not reach.
    """
    used = frozenset(used)
    # max_seq_len only bounds max_input_len, so whoever uses the one uses the other.
    known = used | ({"max_seq_len"} if "max_input_len" in used else set())
    for name in sorted(config.given & set(_MEANING)):
        if name not in known:
            takes = ", ".join(f"--{each}" for each in sorted(used)) or "none"
            raise ConfigError(
                f"{name}={getattr(config, name)} {_MEANING[name]}, which {model} has no use for: "
                f"{_reason(name, used)}. Leave it out; limits that count here: {takes}."
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
