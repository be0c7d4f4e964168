"""Which contracts keep what they compute when the stream is rotated, and what contract computes it then.

x + F(n(x)) does, once the gain and bias of the norm n have moved into what F reads with. Whatever acts on the stream's
channels one by one does not: a gain behind the sum or on what joins it, LayerScale, T5's clamp of float16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from trtllm_ext.checkpoint import ModelConfig
from trtllm_ext.checkpoint.contract import Contract, NormContract, ResidualContract
from trtllm_ext.checkpoint.weights import ATTENTION_NORMS, feed_forward_norm_names
from trtllm_ext.errors import ConfigError

LayerNormWay = Literal["auto", "fold", "keep"]
LAYER_NORM_WAYS = ("auto", "fold", "keep")

# Told a weight's name, looks at its values: whether they are one number, whether they are zero.
Look = Callable[[str], bool]


@dataclass(frozen=True)
class PlacedNorm:
    """name: of its weights. is_read: the stream is read through it, so that its gain folds; else it stands on the
    stream itself or on what joins it."""

    name: str
    norm: NormContract
    is_read: bool
    where: str


@dataclass(frozen=True)
class Sublayer:
    """name: 'attention' or 'mlp', in every layer. norm: the name of what it reads through, or ''."""

    name: str
    residual: ResidualContract
    norm_names: tuple[str, str]


def sublayers(contract: Contract) -> list[Sublayer]:
    form = contract.feed_forward
    found = [Sublayer("mlp", form.residual, feed_forward_norm_names(form.residual))]
    if contract.attention is not None:
        found.insert(0, Sublayer("attention", contract.attention.residual, ATTENTION_NORMS))
    return found


def placed_norms(config: ModelConfig) -> Iterator[PlacedNorm]:
    """Every norm of the stream's width, in order; a layer's once for each layer."""
    contract = config.contract
    if contract.embedding is not None and contract.embedding.norm is not None:
        where = "the norm of the embedding"
        yield PlacedNorm("transformer.embedding.embedding_ln", contract.embedding.norm, False, where)
    for index in range(config.num_hidden_layers):
        for each in sublayers(contract):
            path = f"transformer.layers.{index}"
            placement = each.residual.placement
            where = f"the norm of {each.name} with placement '{placement}'"
            if each.residual.norm is not None:
                is_read = placement in ("pre", "sandwich")
                yield PlacedNorm(f"{path}.{each.norm_names[0]}", each.residual.norm, is_read, where)
            if each.residual.post_norm is not None:
                yield PlacedNorm(
                    f"{path}.{each.norm_names[1]}", each.residual.post_norm, False, f"the second {where[4:]}"
                )
    if contract.final_norm is not None:
        yield PlacedNorm("transformer.ln_f", contract.final_norm, True, "the final norm")


def check_symmetry(config: ModelConfig, uniform: Look, zero: Look, dtype: str) -> None:
    """Raise ConfigError with every reason why the network is another one in a rotated basis.

    dtype: of the weights to be written.
    """
    problems = [
        *_in_contract(config, dtype),
        *_on_the_stream(config, uniform),
        *_gates(config, uniform),
        *_behind_final_norm(config, uniform, zero),
        *_in_shared_expert(config, zero),
    ]
    if problems:
        raise ConfigError(f"the residual stream of this checkpoint cannot be rotated: {'; '.join(problems)}.")


def _in_contract(config: ModelConfig, dtype: str) -> Iterator[str]:
    contract = config.contract
    for each in sublayers(contract):
        residual = each.residual
        if residual.hyper_connections is not None:
            yield (
                f"{each.name} has hyper-connections ({residual.hyper_connections.kind}): several streams, and mixing "
                "weights of their own that are not folded"
            )
        stream = dtype if residual.stream_dtype == "model" else residual.stream_dtype
        if residual.clamp == "float16" and stream == "float16":
            yield (
                f"{each.name} brings single channels of a float16 stream back into range (clamp 'float16'); write "
                "another type, with --dtype float32, and it has no effect"
            )


def _on_the_stream(config: ModelConfig, uniform: Look) -> Iterator[str]:
    told = set()
    for placed in placed_norms(config):
        if (
            placed.is_read
            or not placed.norm.weight
            or placed.where in told
            or uniform(f"{placed.name}.weight")
        ):
            continue
        told.add(placed.where)
        yield (
            f"{placed.where} multiplies each channel of the stream, or of what joins it, by a weight of its own, and "
            f"no matrix follows that could take it ({placed.name})"
        )


def _gates(config: ModelConfig, uniform: Look) -> Iterator[str]:
    for each in sublayers(config.contract):
        names = [
            f"transformer.layers.{index}.{each.name}_scale.weight"
            for index in range(config.num_hidden_layers)
        ]
        if each.residual.gate == "channel" and not all(map(uniform, names)):
            yield (
                f"the gate 'channel' of {each.name} (LayerScale) multiplies each channel of what joins the stream by "
                "a weight of its own"
            )


def _behind_final_norm(config: ModelConfig, uniform: Look, zero: Look) -> Iterator[str]:
    pooling, norm = config.contract.pooling, config.contract.final_norm
    if (
        pooling is None
        or norm is None
        or not norm.weight
        or not pooling.normalize
        or pooling.kind == "pooler"
    ):
        return
    if not uniform("transformer.ln_f.weight") or (norm.bias and not zero("transformer.ln_f.bias")):
        yield (
            "a sentence's vector is scaled to length 1 behind the final norm's weight and bias, which the rotated "
            "network leaves out (transformer.ln_f)"
        )


def _in_shared_expert(config: ModelConfig, zero: Look) -> Iterator[str]:
    form = config.contract.feed_forward
    if form.mixture is None or form.mixture.shared_expert_intermediate_size is None:
        return
    name = feed_forward_norm_names(form.residual)[0]
    for placed in placed_norms(config):
        if placed.is_read and placed.norm.bias and placed.name.endswith(f".{name}"):
            if zero(f"{placed.name}.bias"):
                continue
            yield (
                f"the bias of {placed.name} would become one of the shared expert's fc and gate, which have none in "
                "this format"
            )
            return


def folds_layer_norms(config: ModelConfig, way: LayerNormWay) -> bool:
    """Whether LayerNorms become RMS norms of a stream whose mean is taken off; else they stay, and Q 1 = 1 is needed.

    Raises ConfigError for 'fold' where something other than a LayerNorm reads the stream.
    """
    kinds = {placed.norm.kind for placed in placed_norms(config)}
    if "layer_norm" not in kinds:
        return False
    reason = _reads_the_mean(config)
    if way == "fold" and reason:
        raise ConfigError(
            f"LayerNorms cannot be folded into a stream without its mean: {reason}. Leave --layer_norm out, or give "
            "'keep'."
        )
    return way != "keep" and not reason


def keeps_layer_norms(config: ModelConfig, folds: bool) -> bool:
    """Whether LayerNorms of the stream's width stay, so that the rotation must keep the mean direction."""
    return not folds and any(placed.norm.kind == "layer_norm" for placed in placed_norms(config))


def _reads_the_mean(config: ModelConfig) -> str:
    for placed in placed_norms(config):
        if placed.norm.kind != "layer_norm" or not placed.is_read:
            return f"{placed.where} ({placed.name}) is no LayerNorm that the stream is read through"
    for each in sublayers(config.contract):
        if each.residual.placement not in ("pre", "sandwich"):
            return f"{each.name} reads the stream itself (placement '{each.residual.placement}')"
    if config.contract.pooling is not None and config.contract.final_norm is None:
        return "the output is the stream itself"
    return ""


def rotated_contract(config: ModelConfig, folds: bool, biased: Callable[[str], bool]) -> Contract:
    """The contract of the rotated network: norms without weights, and biases where theirs have gone.

    biased: told 'attention' or 'mlp', whether a norm that it reads through had a bias that is not zero.
    """
    contract = config.contract
    form = contract.feed_forward
    mixture = form.mixture
    if biased("mlp"):
        mixture = None if mixture is None else replace(mixture, router_bias=True)
        form = replace(form, fc_bias=True, mixture=mixture)
    form = replace(form, residual=_rotated_residual(form.residual, folds))
    attention = contract.attention
    if attention is not None:
        attention = replace(
            attention,
            qkv_bias=attention.qkv_bias or biased("attention"),
            residual=_rotated_residual(attention.residual, folds),
        )
    final = None if contract.final_norm is None else bare(contract.final_norm, folds)
    return replace(contract, feed_forward=form, attention=attention, final_norm=final)


def _rotated_residual(residual: ResidualContract, folds: bool) -> ResidualContract:
    if residual.norm is None or residual.placement not in ("pre", "sandwich"):
        return residual
    return replace(residual, norm=bare(residual.norm, folds))


def bare(norm: NormContract, folds: bool) -> NormContract:
    """The norm without weight and bias; an RMS norm where the stream has no mean any more."""
    kind = "rms_norm" if folds else norm.kind
    return NormContract(kind=kind, eps=norm.eps, bias=False, weight=False)
