"""The parts of a model of ours from its contract: names are those of `checkpoint.weights.expected_weights`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from trtllm_ext.analysis.stream_map.stored import Matrix, StoredWeights, Vector, expert, matrix, rows, vector
from trtllm_ext.analysis.stream_map.stream_map import Norm, Part, Reader, StreamMap, Writer
from trtllm_ext.checkpoint.config import ModelConfig
from trtllm_ext.checkpoint.contract import FeedForwardContract, NormContract, ResidualContract
from trtllm_ext.checkpoint.convert.pieces import Piece, Shape
from trtllm_ext.checkpoint.lazy import LazyCheckpoint
from trtllm_ext.checkpoint.weights import ATTENTION_NORMS, expected_weights, feed_forward_norm_names

# Of one of our weights: the parts of stored weights that follow each other in it.
PiecesOf = Callable[[str], Sequence[Piece]]

_LAST = "transformer.ln_f"


def map_of_checkpoint(path: Path) -> StreamMap:
    """Of a checkpoint directory of ours. Raises CheckpointError as LazyCheckpoint does."""
    stored = LazyCheckpoint(path)
    model = ContractParts(stored.config, stored, lambda name: (Piece(name, stored.shapes[name]),))
    missing = () if stored.config.architecture == "Encoder" else (_NO_ATTENTION,)
    return StreamMap(
        source=path,
        architecture=stored.config.architecture,
        hidden_size=stored.config.hidden_size,
        num_layers=stored.config.num_hidden_layers,
        parts=tuple(model.parts()),
        weights=stored,
        missing=missing,
        left_out=_left_out(stored.config),
    )


_NO_ATTENTION = (
    "a SublayerStack has no attention, embedding or head: the folder it was converted from has them"
)


def _left_out(config: ModelConfig) -> dict[str, str]:
    """Weights of the hyper-connections, which compute with the streams without reading or writing through a matrix."""
    reason = "hyper-connections compute their mixing from the streams"
    hidden = config.hidden_size
    return {
        name: reason
        for name, shape in expected_weights(config).items()
        if "_connections." in name and any(size % hidden == 0 for size in shape)
    }


class ContractParts:
    """Makes the parts that a config's contract describes. pieces: where each of our weights is stored, by its name."""

    def __init__(self, config: ModelConfig, weights: StoredWeights, pieces: PiecesOf) -> None:
        self._config, self._weights, self._pieces = config, weights, pieces
        self._shapes: dict[str, Shape] = expected_weights(config)

    def parts(self) -> Iterator[Part]:
        contract = self._config.contract
        if contract.embedding is not None:
            yield self._embedding()
        for index in range(self._config.num_hidden_layers):
            if contract.attention is not None:
                yield self._attention(index)
            yield self.feed_forward(index)
        final = None if contract.final_norm is None else self._norm(_LAST, contract.final_norm)
        if final is not None:
            yield Part(_LAST, None, "final_norm", norm=final)
        if contract.pooling is not None and contract.pooling.kind == "pooler":
            yield Part(
                "transformer.pooler",
                None,
                "pooler",
                readers=(self._reader("transformer.pooler.dense", "dense", final),),
                remarks=("tanh follows the pooler's matrix",),
            )

    def _embedding(self) -> Part:
        form = self._config.contract.embedding
        assert form is not None
        path = "transformer.embedding"
        writers = []
        for role in ("vocab", "position", *(["token"] if form.token_type else [])):
            name = f"{path}.{role}_embedding"
            pieces = [piece.transpose() for piece in self._pieces(f"{name}.weight")]
            writers.append(Writer(matrix(name, self._weights, pieces), role))
        norm = None if form.norm is None else self._norm(f"{path}.embedding_ln", form.norm)
        return Part(path, None, "embedding", writers=tuple(writers), norm=norm)

    def _attention(self, index: int) -> Part:
        form = self._config.contract.attention
        assert form is not None
        path = f"transformer.layers.{index}"
        norms = [f"{path}.{name}" for name in ATTENTION_NORMS]
        before, branch, after = self._norms(form.residual, norms)
        qkv = f"{path}.attention.qkv"
        height = self._shapes[f"{qkv}.weight"][0] // 3
        readers = tuple(
            self._reader(qkv, role, before, slice(place * height, (place + 1) * height))
            for place, role in enumerate("qkv")
        )
        writer = self._writer(f"{path}.attention.dense", "dense", form.residual, branch, f"{path}.attention")
        return Part(
            f"{path}.attention", index, "attention", form.residual, readers, (writer,), after,
            _obstacle(form.residual),
        )  # fmt: skip

    def feed_forward(self, index: int) -> Part:
        """The feed-forward sublayer of a layer."""
        form = self._config.contract.feed_forward
        path = f"transformer.layers.{index}"
        norms = [f"{path}.{name}" for name in feed_forward_norm_names(form.residual)]
        before, branch, after = self._norms(form.residual, norms)
        mlp = f"{path}.mlp"
        readers, writers = [], []
        if form.mixture is not None:
            readers.append(self._reader(f"{mlp}.router", "router", before))
        for number in range(form.mixture.num_experts) if form.mixture else (None,):
            label = "" if number is None else f"[{number}]"
            for name in ("fc", "gate") if form.gated else ("fc",):
                readers.append(self._reader(f"{mlp}.{name}", f"{name}{label}", before, number=number))
            writers.append(
                self._writer(f"{mlp}.proj", f"proj{label}", form.residual, branch, mlp, number=number)
            )
        if form.mixture is not None and form.mixture.shared_expert_intermediate_size is not None:
            shared = f"{mlp}.shared_expert"
            for name in ("fc", "gate") if form.gated else ("fc",):
                readers.append(self._reader(f"{shared}.{name}", f"shared_expert.{name}", before))
            if form.mixture.shared_expert_gate:
                readers.append(self._reader(f"{mlp}.shared_expert_gate", "shared_expert_gate", before))
            writers.append(self._writer(f"{shared}.proj", "shared_expert.proj", form.residual, branch, mlp))
        return Part(
            mlp, index, "mlp", form.residual, tuple(readers), tuple(writers), after,
            _obstacle(form.residual), _remarks(form),
        )  # fmt: skip

    # --- one reader or writer -------------------------------------------------------------------------------

    def _reader(
        self,
        name: str,
        role: str,
        norm: Norm | None,
        part: slice | None = None,
        *,
        number: int | None = None,
    ) -> Reader:
        label = f"{name}.{role}" if part is not None else name
        found, bias = self._linear(name, label, part, number)
        return Reader(found, role, bias, *_fields(norm))

    def _writer(
        self,
        name: str,
        role: str,
        residual: ResidualContract,
        norm: Norm | None,
        block: str,
        *,
        number: int | None = None,
    ) -> Writer:
        found, bias = self._linear(name, name, None, number)
        gate = None
        if residual.gate != "none":
            gate = self._vector(f"{block}_scale.weight", tanh=residual.gate == "tanh")
        return Writer(found, role, bias, *_fields(norm), gate=gate, scale=residual.scale)

    def _linear(
        self, name: str, label: str, part: slice | None, number: int | None
    ) -> tuple[Matrix, Vector | None]:
        """Matrix and bias of a linear layer, or of some of its rows, or of an expert's."""
        if number is not None:
            label = f"{name}[{number}]"
        made = []
        for leaf in ("weight", "bias"):
            full = f"{name}.{leaf}"
            if full not in self._shapes:
                continue
            pieces = tuple(self._pieces(full))
            if number is not None:
                pieces = expert(pieces, number, len(self._shapes[full]))
            if part is not None:
                pieces = rows(pieces, part.start, part.stop)
            made.append(pieces)
        bias = vector(f"{label}.bias", self._weights, made[1]) if len(made) > 1 else None
        return matrix(label, self._weights, made[0]), bias

    def _norms(
        self, residual: ResidualContract, names: Sequence[str]
    ) -> tuple[Norm | None, Norm | None, Norm | None]:
        """Of a sublayer: the norm of what it reads, of what it writes, and of the sum."""
        first = None if residual.norm is None else self._norm(names[0], residual.norm)
        second = None if residual.post_norm is None else self._norm(names[1], residual.post_norm)
        match residual.placement:
            case "post":
                return None, None, first
            case "branch":
                return None, first, None
            case _:
                return first, second, None

    def _norm(self, name: str, form: NormContract) -> Norm:
        gain = self._vector(f"{name}.weight", offset=form.weight_offset) if form.weight else None
        return Norm(form, gain, self._vector(f"{name}.bias") if form.bias else None)

    def _vector(self, name: str, *, offset: float = 0.0, tanh: bool = False) -> Vector:
        return vector(name, self._weights, self._pieces(name), offset=offset, tanh=tanh)


def _fields(norm: Norm | None) -> tuple[NormContract | None, Vector | None, Vector | None]:
    return (None, None, None) if norm is None else (norm.contract, norm.gain, norm.shift)


def _obstacle(residual: ResidualContract) -> str | None:
    connections = residual.hyper_connections
    if connections is None:
        return None
    return (
        f"hyper-connections of kind {connections.kind!r} mix {connections.num_streams} streams before it reads and "
        "after it writes"
    )


def _remarks(form: FeedForwardContract) -> tuple[str, ...]:
    remarks = []
    if form.inner_norm is not None:
        remarks.append(
            f"inner_norm ({form.inner_norm.kind}) stands between the activation and proj: proj alone writes, and the "
            "norm's gain and bias stay what they are"
        )
    if form.mixture is not None:
        remarks.append("the router's weights of the chosen experts are factors of what each writes")
    return tuple(remarks)
