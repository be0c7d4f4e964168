"""A checkpoint's config.json: TensorRT-LLM's fields plus the contract."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping as MappingType
from dataclasses import dataclass, field
from typing import Any

from trtllm_ext.checkpoint.contract import CONTRACT_VERSION, Contract, FeedForwardContract, NormContract
from trtllm_ext.checkpoint.dtypes import weight_dtype
from trtllm_ext.checkpoint.fields import check
from trtllm_ext.errors import ConfigError
from trtllm_ext.parallel import Mapping
from trtllm_ext.suggest import nearest

ARCHITECTURES = ("SublayerStack", "Encoder")

# Kinds of parallelism that models do not have, and why.
OTHER_PARALLELISM = {
    "pp_size": "the layers of a model are not divided among ranks",
    "cp_size": "the tokens of a sequence are not divided among ranks",
    "moe_ep_size": "a mixture's experts split along their inner width, each rank holds a part of every one",
}

_NO_QUANTIZATION = {"quant_algo": None, "kv_cache_quant_algo": None}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What a model is built from.

    The names are TensorRT-LLM's; `contract` alone says what the network computes. `hidden_act` and
    `norm_epsilon` are written for readers that expect them, from the contract.
    intermediate_size: the feed-forward width, of one expert in a mixture.
    num_attention_heads, head_size: of the attention. Where the contract has none, as in a SublayerStack, nothing is
        computed from them, and they stand for readers that expect them.
    source: where the weights come from, for people: 'LlamaForCausalLM, layers 3:7'.
    mapping: tensor-parallel ranks; weights split as `expected_weights` tells.
    Raises ConfigError for sizes that are not positive, do not fit each other, or do not fit the contract, and for
    other kinds of parallelism.
    """

    architecture: str
    dtype: str
    hidden_size: int
    num_hidden_layers: int
    intermediate_size: int
    contract: Contract
    num_attention_heads: int = 1
    head_size: int = 0  # 0 means hidden_size / num_attention_heads
    vocab_size: int | None = None
    max_position_embeddings: int | None = None
    type_vocab_size: int | None = None
    source: str | None = None
    mapping: Mapping = field(default_factory=Mapping)

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise ConfigError(
                f"architecture {self.architecture!r} is not known; supported: {', '.join(ARCHITECTURES)}."
            )
        weight_dtype(self.dtype)
        sizes = ["hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads"]
        sizes += [name for name in _EMBEDDING_SIZES if getattr(self, name) is not None]
        for name in sizes:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.head_size == 0:
            if self.hidden_size % self.num_attention_heads:
                raise ConfigError(
                    f"hidden_size={self.hidden_size} does not split over num_attention_heads="
                    f"{self.num_attention_heads}; give head_size, or a number of heads that divides it."
                )
            object.__setattr__(self, "head_size", self.hidden_size // self.num_attention_heads)
        if self.head_size < 1:
            raise ConfigError(f"head_size={self.head_size} must be at least 1.")
        self._check_contract()
        self._check_mapping()

    def _check_mapping(self) -> None:
        for name, reason in OTHER_PARALLELISM.items():
            if getattr(self.mapping, name) > 1:
                raise ConfigError(
                    f"mapping.{name}={getattr(self.mapping, name)} is not supported: {reason}. Use {name}=1; tp_size "
                    "splits every layer over the ranks."
                )

    def _check_contract(self) -> None:
        embedding = self.contract.embedding
        parts = {
            "embedding": embedding,
            "attention": self.contract.attention,
            "pooling": self.contract.pooling,
        }
        if self.contract.attention_input and self.architecture != "SublayerStack":
            raise ConfigError("attention_input belongs to a SublayerStack; leave it out of this contract.")
        for name, part in parts.items():
            if (part is not None) != (self.architecture == "Encoder"):
                raise ConfigError(
                    f"architecture {self.architecture!r} {'has no' if part else 'needs'} {name} in its contract."
                )
        needed = {
            "vocab_size": embedding is not None,
            "max_position_embeddings": embedding is not None,
            "type_vocab_size": embedding is not None and embedding.token_type,
        }
        for name, need in needed.items():
            if need != (getattr(self, name) is not None):
                raise ConfigError(
                    f"{name}={getattr(self, name)}, but the contract's embedding {_uses(need)} it."
                )
        if embedding is not None and self.num_positions < 1:
            raise ConfigError(
                f"max_position_embeddings={self.max_position_embeddings} leaves no position after position_offset="
                f"{embedding.position_offset}."
            )
        pooling, positions = self.contract.pooling, self.num_positions
        if pooling and pooling.max_seq_length and positions and pooling.max_seq_length > positions:
            raise ConfigError(
                f"max_seq_length={pooling.max_seq_length} is more than the model's {positions} positions."
            )

        self._check_residuals()

    def _check_residuals(self) -> None:
        attention, residual = self.contract.attention, self.contract.feed_forward.residual
        if attention is not None:
            for name in ("stream_dtype", "parallel", "hyper_connections"):
                ours, theirs = getattr(residual, name), getattr(attention.residual, name)
                if ours != theirs or (name != "stream_dtype" and ours not in ("none", None)):
                    raise ConfigError(
                        f"{name}={theirs!r} of attention with {name}={ours!r} of feed_forward is not known in an "
                        "Encoder: its sublayers follow each other on one stream of the same type."
                    )
        both = {
            attention.residual.placement if attention else "",
            residual.placement,
        }
        if attention is not None and "sandwich" in both and len(both) > 1:
            raise ConfigError(
                "placement 'sandwich' must hold for both attention and feed_forward, or for neither."
            )

    @property
    def num_positions(self) -> int:
        """Tokens that a sequence may have: the rows of the position table but those that no token uses."""
        embedding = self.contract.embedding
        return (self.max_position_embeddings or 0) - (0 if embedding is None else embedding.position_offset)

    @property
    def stream_dtype(self) -> str:
        """The type of the residual stream."""
        stream = self.contract.feed_forward.residual.stream_dtype
        return self.dtype if stream == "model" else stream

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; `from_dict` reads it back."""
        norm = self.contract.feed_forward.residual.norm
        mapping = self.mapping.to_dict()
        del mapping["rank"]
        return {
            "architecture": self.architecture,
            "dtype": self.dtype,
            "logits_dtype": "float32",
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_attention_heads,
            "head_size": self.head_size,
            "intermediate_size": self.intermediate_size,
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.max_position_embeddings,
            "type_vocab_size": self.type_vocab_size,
            "source": self.source,
            "position_embedding_type": "learned_absolute",
            "hidden_act": self.contract.feed_forward.activation,
            "norm_epsilon": norm.eps if norm is not None else None,
            "mapping": mapping,
            "quantization": dict(_NO_QUANTIZATION),
            "contract": self.contract.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: MappingType[str, Any], *, rank: int = 0) -> ModelConfig:
        """Read the JSON form, for one rank.

        Raises ConfigError naming a field that is unknown, missing, of the wrong type, or at odds with the
        contract, and for a rank outside the mapping.
        """
        if (
            "contract" not in data
        ):  # said first: a checkpoint of TensorRT-LLM's own converters differs in more fields
            raise ConfigError(
                "config lacks the field 'contract'. Without it the exact maths is not known: convert the source "
                "model with trtllm-ext."
            )
        for name in data:
            if name not in _FIELDS:
                raise ConfigError(f"config has the unknown field {name!r}. {nearest(name, _FIELDS)}")
        for name in _FIELDS:
            if name not in data and name not in _OPTIONAL:
                raise ConfigError(f"config lacks the field {name!r}.")
        stored = data.get("sha256")
        if stored is not None and stored != config_digest(data):
            raise ConfigError(
                "config does not match its sha256: it was damaged, or changed by hand. Convert the model again, "
                "or remove the field 'sha256' if the change is meant."
            )
        values = {name: check(hint, data[name], f"config.{name}") for name, hint in _PLAIN.items()}
        check(str | None, data.get("checkpoint_id"), "config.checkpoint_id")
        if not isinstance(data["mapping"], dict) or "rank" in data["mapping"]:
            raise ConfigError("config.mapping must be an object of sizes, without a rank.")
        mapping = Mapping.from_dict({**data["mapping"], "rank": rank})
        config = cls(**values, contract=Contract.from_dict(data["contract"]), mapping=mapping)
        for name, expected in config.to_dict().items():
            if name not in ("mapping", "contract") and data[name] != expected:
                raise ConfigError(
                    f"config.{name}={data[name]!r} is not supported here; expected {expected!r}."
                )
        return config

    def to_json(self, *, checkpoint_id: str | None = None) -> str:
        """The text of config.json, with a digest of its values. checkpoint_id: also in each rank's weight file."""
        data = self.to_dict()
        if checkpoint_id is not None:
            data["checkpoint_id"] = checkpoint_id
        data["sha256"] = config_digest(data)
        return json.dumps(data, indent=2) + "\n"


def stack_config(
    feed_forward: FeedForwardContract,
    *,
    hidden_size: int,
    ffn_hidden_size: int,
    num_hidden_layers: int,
    attention_input: bool = False,
    final_norm: NormContract | None = None,
    dtype: str = "float32",
    source: str | None = None,
) -> ModelConfig:
    """A SublayerStack's config: sublayers of one form, on packed tokens.

    attention_input, final_norm: see `Contract`. source: see `ModelConfig`.
    Raises ConfigError for sizes below 1, and for a dtype that is no weight type.
    """
    return ModelConfig(
        architecture="SublayerStack",
        dtype=dtype,
        hidden_size=hidden_size,
        num_hidden_layers=num_hidden_layers,
        intermediate_size=ffn_hidden_size,
        source=source,
        contract=Contract(
            version=CONTRACT_VERSION,
            embedding=None,
            attention=None,
            feed_forward=feed_forward,
            final_norm=final_norm,
            pooling=None,
            attention_input=attention_input,
        ),
    )


def config_digest(data: MappingType[str, Any]) -> str:
    """sha256 of a config's values in canonical JSON, without the digest itself."""
    rest = {name: value for name, value in data.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _uses(need: bool) -> str:
    return "needs" if need else "has no use for"


_EMBEDDING_SIZES = ("vocab_size", "max_position_embeddings", "type_vocab_size")
_PLAIN: dict[str, Any] = {
    item.name: hint
    for item in dataclasses.fields(ModelConfig)
    if (
        hint := {"str": str, "int": int, "int | None": int | None, "str | None": str | None}.get(
            str(item.type)
        )
    )
    is not None
}
_OPTIONAL = ("checkpoint_id", "sha256")
_FIELDS = (
    *_PLAIN,
    *("logits_dtype", "num_key_value_heads", "position_embedding_type", "hidden_act", "norm_epsilon"),
    *("mapping", "quantization", "contract", *_OPTIONAL),
)
