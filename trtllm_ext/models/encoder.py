"""A BERT-like encoder on padded sentences: embeddings, layers, pooling."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, ClassVar

from trtllm_ext.checkpoint import (
    AttentionContract,
    Contract,
    EmbeddingContract,
    FeedForwardContract,
    ModelConfig,
    NormContract,
    PoolingContract,
    ResidualContract,
)
from trtllm_ext.checkpoint.contract import CONTRACT_VERSION
from trtllm_ext.errors import ConfigError
from trtllm_ext.graph import Module, ModuleList, Tensor, functional
from trtllm_ext.layers import ColumnLinear, Embedding, additive_padding_mask
from trtllm_ext.models.base import Model, optimum, positive_limit
from trtllm_ext.models.layer import TransformerLayer, norm_from_contract


def encoder_config(
    *,
    hidden_size: int,
    ffn_hidden_size: int,
    num_hidden_layers: int,
    num_attention_heads: int,
    vocab_size: int,
    max_position_embeddings: int,
    hidden_act: str = "gelu_erf",
    eps: float = 1e-12,
    dtype: str = "float32",
) -> ModelConfig:
    """The config of an Encoder of BERT's form with mean pooling, normalized, from its sizes.

    Raises ConfigError for sizes below 1, heads that do not divide `hidden_size`, and unknown names.
    """
    norm = NormContract(kind="layer_norm", eps=eps, bias=True)
    residual = ResidualContract(placement="post", norm=norm, post_norm=None, scale=1.0)
    return ModelConfig(
        architecture="Encoder",
        dtype=dtype,
        hidden_size=hidden_size,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=num_attention_heads,
        intermediate_size=ffn_hidden_size,
        vocab_size=vocab_size,
        max_position_embeddings=max_position_embeddings,
        type_vocab_size=2,
        contract=Contract(
            version=CONTRACT_VERSION,
            embedding=EmbeddingContract(position="learned_absolute", token_type=True, norm=norm),
            attention=AttentionContract(
                qkv_bias=True,
                dense_bias=True,
                scale="inverse_sqrt_head_size",
                mask="padding",
                residual=residual,
            ),
            feed_forward=FeedForwardContract(
                gated=False, activation=hidden_act, fc_bias=True, proj_bias=True, residual=residual
            ),
            final_norm=None,
            pooling=PoolingContract(kind="mean", normalize=True, max_seq_length=None),
        ),
    )


class EncoderEmbedding(Module):
    """vocab[input_ids] + token[token_type_ids] + position[offset..offset + seq), then the norm."""

    def __init__(self, config: ModelConfig, contract: EmbeddingContract) -> None:
        super().__init__()
        hidden, dtype = config.hidden_size, config.dtype
        self.hidden_size = hidden
        self.max_positions = config.max_position_embeddings or 0
        self.first_position = contract.position_offset
        self.vocab_embedding = Embedding(config.vocab_size or 0, hidden, dtype)
        self.position_embedding = Embedding(self.max_positions, hidden, dtype)
        self._has_token_type = contract.token_type
        if contract.token_type:
            self.token_embedding = Embedding(config.type_vocab_size or 0, hidden, dtype)
        norm = norm_from_contract(contract.norm, hidden, dtype)
        self._has_norm = norm is not None
        if norm is not None:
            self.embedding_ln = norm

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None) -> Tensor:
        """input_ids, token_type_ids: int32 (batch, seq); returns (batch, seq, hidden_size)."""
        hidden_states = self.vocab_embedding(input_ids)
        if self._has_token_type:
            hidden_states = hidden_states + self.token_embedding(token_type_ids)
        hidden_states = hidden_states + self._positions(input_ids)
        return self.embedding_ln(hidden_states) if self._has_norm else hidden_states

    def _positions(self, input_ids: Tensor) -> Tensor:
        """Rows of the table as (1, seq, hidden_size): positions always count from the first that tokens use."""
        table = functional.view(
            self.position_embedding.weight.value, [1, self.max_positions, self.hidden_size]
        )
        sizes = functional.concat([1, functional.shape(input_ids, 1), self.hidden_size])
        return functional.slice(table, [0, self.first_position, 0], sizes)


class Pooler(Module):
    """tanh(dense(first token's vector)), in the model's type."""

    def __init__(self, hidden_size: int, dtype: str) -> None:
        super().__init__()
        self.dense = ColumnLinear(hidden_size, hidden_size, dtype=dtype)

    def forward(self, first_token: Tensor) -> Tensor:
        """first_token: (batch, hidden_size)."""
        return functional.tanh(self.dense(first_token))


class EncoderTransformer(Module):
    """Everything that has weights."""

    def __init__(self, config: ModelConfig, embedding: EmbeddingContract, pooling: PoolingContract) -> None:
        super().__init__()
        self._config = config
        self._pooling = pooling
        self.embedding = EncoderEmbedding(config, embedding)
        self.layers = ModuleList([TransformerLayer(config) for _ in range(config.num_hidden_layers)])
        final_norm = norm_from_contract(config.contract.final_norm, config.hidden_size, config.dtype)
        self._has_final_norm = final_norm is not None
        if final_norm is not None:
            self.ln_f = final_norm
        if pooling.kind == "pooler":
            self.pooler = Pooler(config.hidden_size, config.dtype)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Returns last_hidden_state (batch, seq, hidden) and, with pooling, sentence_embedding (batch, hidden)."""
        hidden_states = functional.cast(self.embedding(input_ids, token_type_ids), self._config.stream_dtype)
        mask = additive_padding_mask(attention_mask, self._config.dtype)
        for layer in self.layers:
            hidden_states = layer(hidden_states, mask)
        if self._has_final_norm:
            hidden_states = self.ln_f(hidden_states)
        hidden_states = functional.cast(hidden_states, self._config.dtype)
        if self._pooling.kind == "none":
            return hidden_states, None
        pooled = self._pool(hidden_states, attention_mask)
        return hidden_states, normalize(pooled) if self._pooling.normalize else pooled

    def _pool(self, hidden_states: Tensor, attention_mask: Tensor) -> Tensor:
        """(batch, hidden_size), float32."""
        if self._pooling.kind == "mean":
            return mean_of_tokens(hidden_states, attention_mask, self._config.hidden_size)
        first = functional.select(hidden_states, 1, 0)
        if self._pooling.kind == "pooler":
            # In three dimensions: of a matrix TensorRT 8.6 computes more than one sentence wrongly with use_refit.
            whole = self.pooler(functional.unsqueeze(first, 1))
            first = functional.view(whole, [0, self._config.hidden_size])
        return functional.cast(first, "float32")


def mean_of_tokens(hidden_states: Tensor, attention_mask: Tensor, hidden_size: int) -> Tensor:
    """The mean over tokens that are not padding, in float32: (batch, hidden_size).

    Summed by a product with the mask, (1, seq) x (seq, hidden). A row of padding only gives zeros.
    """
    keep = functional.cast(functional.cast(attention_mask, "bool"), "float32")
    count = functional.maximum(functional.sum(keep, dim=1, keepdim=True), 1e-9)
    total = functional.matmul(functional.unsqueeze(keep, 1), functional.cast(hidden_states, "float32"))
    return functional.view(total, [0, hidden_size]) / count


def normalize(x: Tensor) -> Tensor:
    """x / max(Euclidean length of its last axis, 1e-12)."""
    length = functional.sqrt(functional.sum(x * x, dim=-1, keepdim=True))
    return x / functional.maximum(length, 1e-12)


class Encoder(Model):
    """input_ids, attention_mask, token_type_ids to last_hidden_state and sentence_embedding.

    All inputs are int32 (batch, seq). attention_mask is 0 for padding. input_ids are valid in 0..vocab_size-1,
    token_type_ids in 0..type_vocab_size-1, at padding too. Others give no defined result: the embedded engine fails
    the run with EngineError for ids that no table has, but takes negative ones as counted from the table's end;
    NVIDIA's checks neither. Padding after a sentence never changes its result, whatever valid ids stand there; padding
    before it shifts its positions, as in BERT. last_hidden_state (batch, seq, hidden_size) has the model's type, and
    means nothing at padding tokens. sentence_embedding (batch, hidden_size) is float32; pooling 'none' has none.
    """

    limits: ClassVar[frozenset[str]] = frozenset({"max_batch_size", "opt_batch_size", "max_input_len"})
    architecture: ClassVar[str] = "Encoder"
    has_independent_rows: ClassVar[bool] = True

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        embedding, pooling = config.contract.embedding, config.contract.pooling
        if embedding is None or pooling is None:  # ModelConfig refuses such an Encoder
            raise ConfigError("An Encoder's contract needs embedding and pooling.")
        self.transformer = EncoderTransformer(config, embedding, pooling)
        self._has_token_type = embedding.token_type

    def prepare_inputs(self, **limits: Any) -> dict[str, Tensor]:
        """The network's inputs, for `forward`.

        max_batch_size: most sentences in one run. opt_batch_size: the number to tune for; half of that by
        default.
        max_input_len: most tokens of a sentence, at most the model's max_position_embeddings.
        """
        batch = positive_limit(limits, "max_batch_size", self)
        length = positive_limit(limits, "max_input_len", self)
        positions = self.config.num_positions
        if length > positions:
            raise ConfigError(
                f"max_input_len={length} is more than the model has positions for; set it to at most {positions}, "
                "its max_position_embeddings without those that no token uses."
            )
        best_batch = optimum(limits, "opt_batch_size", batch)
        ranges = OrderedDict(
            [("batch_size", [[1, best_batch, batch]]), ("input_len", [[1, (length + 1) // 2, length]])]
        )
        names = ["input_ids", "attention_mask"] + (["token_type_ids"] if self._has_token_type else [])
        return {name: Tensor(name=name, dtype="int32", shape=[-1, -1], dim_range=ranges) for name in names}

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Marks `last_hidden_state` and, with pooling, `sentence_embedding`."""
        hidden_states, sentence = self.transformer(input_ids, attention_mask, token_type_ids)
        hidden_states.mark_output("last_hidden_state", self.config.dtype)
        if sentence is None:
            return {"last_hidden_state": hidden_states}
        sentence.mark_output("sentence_embedding", "float32")
        return {"last_hidden_state": hidden_states, "sentence_embedding": sentence}
