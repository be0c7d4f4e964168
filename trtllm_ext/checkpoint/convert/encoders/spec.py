"""How an encoder's architecture is described: what its config says, and what its weights are called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from trtllm_ext.checkpoint.convert.hf_config import HfConfig
from trtllm_ext.errors import CheckpointError


@dataclass(frozen=True, kw_only=True)
class EncoderForm:
    """The maths of one model of BERT's kind: norms after the sums, biases everywhere, learned positions.

    type_vocab_size: None for a model without token types.
    position_offset: rows at the start of the position table that no token uses.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    ffn_hidden_size: int
    max_position_embeddings: int
    type_vocab_size: int | None
    activation: str
    eps: float
    position_offset: int = 0


@dataclass(frozen=True, kw_only=True)
class EncoderNames:
    """The source's names of weights, without '.weight' and '.bias'.

    embeddings: by ours under 'transformer.'. layers: what stands before a layer's number. layer: by ours in a layer.
    query_key_value: three matrices in a layer, which follow each other in our attention.qkv.
    """

    embeddings: Mapping[str, str]
    layers: str
    layer: Mapping[str, str]
    query_key_value: tuple[str, str, str]

    @property
    def has_pooler(self) -> bool:
        return "pooler.dense" in self.embeddings


@dataclass(frozen=True, kw_only=True)
class EncoderArchitecture:
    """One Hugging Face architecture.

    model_type: as in its config.json. model: the name of the class that is the encoder alone.
    base: what task models put before the encoder's weights, with its dot.
    heads: class name -> what the names of its head's weights start with.
    read: reads the config. Raises CheckpointError. other_fields: fields of the config without a say in the maths.
    example: a config of the architecture, for the table in the docs.
    """

    model_type: str
    model: str
    base: str
    heads: Mapping[str, tuple[str, ...]]
    read: Callable[[HfConfig], EncoderForm]
    names: EncoderNames
    example: Mapping[str, Any]
    other_fields: frozenset[str] = frozenset()

    def class_names(self) -> tuple[str, ...]:
        """The names in `architectures` of models that can be converted."""
        return (self.model, *self.heads)


def check_form(config: HfConfig, *, hidden_size: str, num_heads: str) -> None:
    """Refuse what transformers lets a config of this kind ask for and no EncoderForm has.

    hidden_size, num_heads: the fields' names.
    """
    width, heads = config.size(hidden_size), config.size(num_heads)
    if width % heads:
        raise CheckpointError(
            f"{config.path}: {hidden_size}={width} does not split over {num_heads}={heads}."
        )
    config.fixed("position_embedding_type", "absolute")
    config.fixed("is_decoder", False)
    config.fixed("add_cross_attention", False)
    config.fixed("is_encoder_decoder", False)
    config.fixed("chunk_size_feed_forward", 0)
    config.fixed("pruned_heads", {})
    config.unquantized()
    config.fixed("auto_map", {})
