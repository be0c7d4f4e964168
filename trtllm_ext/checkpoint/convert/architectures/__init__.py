"""Every architecture whose feed-forward sublayers can be converted, one spec each."""

from dataclasses import replace

from trtllm_ext.checkpoint.convert.architectures import (
    gemma,
    gpt2,
    gpt_oss,
    layer_norm_decoders,
    llama,
    mixture,
    olmo,
    parallel,
    rms_norm_decoders,
    seq2seq_decoders,
    t5,
    vision,
)
from trtllm_ext.checkpoint.convert.architectures.spec import StackArchitecture
from trtllm_ext.checkpoint.convert.architectures.stream_names import STREAM_NAMES

_FAMILIES = (
    llama,
    gemma,
    olmo,
    mixture,
    gpt_oss,
    gpt2,
    layer_norm_decoders,
    parallel,
    t5,
    vision,
    rms_norm_decoders,
    seq2seq_decoders,
)


def _with_names(spec: StackArchitecture) -> StackArchitecture:
    """With what stands around its feed-forward sublayers."""
    around = STREAM_NAMES.get((spec.model_type, spec.stack or "")) or STREAM_NAMES.get(spec.model_type)
    return replace(spec, around=around)


STACK_ARCHITECTURES: tuple[StackArchitecture, ...] = tuple(
    _with_names(spec) for family in _FAMILIES for spec in family.ARCHITECTURES
)


def specs_by_class() -> dict[str, tuple[StackArchitecture, ...]]:
    """The specs of each class name in `architectures`; more than one where a model has several stacks."""
    result: dict[str, tuple[StackArchitecture, ...]] = {}
    for spec in STACK_ARCHITECTURES:
        for name in spec.class_names():
            result[name] = (*result.get(name, ()), spec)
    return result
