"""How an architecture's feed-forward sublayers are described: what its config says, and where its weights are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from trtllm_ext.checkpoint.contract import FeedForwardContract
from trtllm_ext.checkpoint.convert.architectures.around import StreamNames
from trtllm_ext.checkpoint.convert.hf_config import HfConfig
from trtllm_ext.checkpoint.convert.pieces import Piece, Shape, Weight, stack
from trtllm_ext.checkpoint.convert.source_files import WeightFile

# Given 'weight' or 'bias' and the shape of our weight: the pieces of the source, named within its layer.
Source = Callable[[str, Shape], Weight]

# What stands behind a class's prefix in `architectures`: the layers below are the same.
HEADS = (
    *("Model", "ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForConditionalGeneration", "EncoderModel"),
    *(
        "ForSequenceClassification",
        "ForTokenClassification",
        "ForQuestionAnswering",
        "ForImageClassification",
    ),
)


@dataclass(frozen=True, kw_only=True)
class StackForm:
    """The sublayers of some layers of one model.

    weights: our weights in a layer without their '.weight' or '.bias' -> where the source's layer has them: a name
        of the same kind, or a Source.
    other_namings: models of the architecture may also be saved with these in place of the same ones in `weights`; the
        naming taken is the one of which the source has the most.
    decode: the source's weights as they are meant, where they are stored in a code.
    """

    hidden_size: int
    ffn_hidden_size: int
    feed_forward: FeedForwardContract
    weights: Mapping[str, str | Source]
    other_namings: tuple[Mapping[str, str | Source], ...] = ()
    decode: Callable[[WeightFile], WeightFile] = lambda weights: weights


@dataclass(frozen=True, kw_only=True)
class StackArchitecture:
    """One Hugging Face architecture.

    model_type: as in its config.json. prefix: of its classes' names, 'Llama' in LlamaForCausalLM.
    heads: what may stand behind the prefix. other_classes: names of classes with these layers that are made otherwise.
    read: reads the config, for the chosen layers, which have to be of one form. Raises CheckpointError.
    layers: what stands before a layer's number in names of weights, one for each way in which models are saved.
    beside: the parts of a layer that are not its feed-forward sublayer's.
    other_fields: fields of the config that say nothing about the feed-forward sublayer, beside the general ones.
    depth: the field with the number of layers. depth_unless_given: the field that holds it where `depth` is missing,
        or the number itself.
    stack: its name where a model has more than one ('encoder').
    nested_config: names of objects inside that may hold the fields (models of several stacks); the first that is there
        counts.
    code_prefixes: how classes of the architecture's own code may begin beside the prefix (auto_map).
    example: a config of the architecture, for the table in the docs.
    note: for the table, what is particular.
    around: what else reads or writes the stream; None where it is not described.
    """

    model_type: str
    prefix: str
    read: Callable[[HfConfig, range], StackForm]
    layers: tuple[str, ...]
    beside: tuple[str, ...]
    example: Mapping[str, Any]
    other_fields: frozenset[str] = field(default=frozenset())
    depth: str = "num_hidden_layers"
    depth_unless_given: str | int | None = None
    stack: str | None = None
    nested_config: tuple[str, ...] = ()
    heads: tuple[str, ...] = HEADS
    other_classes: tuple[str, ...] = ()
    code_prefixes: tuple[str, ...] = ()
    note: str = ""
    around: StreamNames | None = None

    def class_names(self) -> tuple[str, ...]:
        """The names in `architectures` of models that have these layers."""
        return (*(self.prefix + head for head in self.heads), *self.other_classes)


def plain(stem: str) -> Source:
    """The source has the same matrix."""
    return lambda leaf, shape: Piece(f"{stem}.{leaf}", shape)


def transposed(stem: str) -> Source:
    """The source has matrices as (in_features, out_features)."""

    def source(leaf: str, shape: Shape) -> Weight:
        if leaf == "bias":
            return Piece(f"{stem}.bias", shape)
        return Piece(f"{stem}.{leaf}", (*shape[:-2], shape[-1], shape[-2])).transpose()

    return source


def half(stem: str, index: int) -> Source:
    """Ours are the first (0) or second (1) half of the source's rows."""
    return lambda leaf, shape: Piece(f"{stem}.{leaf}", (2 * shape[0], *shape[1:])).half(index)


def experts(pattern: str) -> Source:
    """The source has an expert's matrix by itself; pattern: its name, with {} for the expert's number."""
    return lambda leaf, shape: stack(
        *(Piece(f"{pattern.format(expert)}.{leaf}", shape[1:]) for expert in range(shape[0]))
    )


def named(name: str) -> Source:
    """One weight under a name that has no '.weight' behind it."""
    return lambda leaf, shape: Piece(name, shape)
