"""From a Hugging Face model to a SublayerStack: each layer's feed-forward sublayer with its norms, by a spec."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args

from trtllm_ext.checkpoint.config import stack_config
from trtllm_ext.checkpoint.contract import StreamDtype
from trtllm_ext.checkpoint.convert.architectures.spec import Source, StackArchitecture, StackForm, plain
from trtllm_ext.checkpoint.convert.hf_config import HfConfig
from trtllm_ext.checkpoint.convert.hf_fields import HF_FIELDS_OUTSIDE_FEED_FORWARD
from trtllm_ext.checkpoint.convert.pieces import Joined, Piece, Shape, Weight
from trtllm_ext.checkpoint.convert.plan import Plan, plan_weights
from trtllm_ext.checkpoint.convert.source import SourceWeights
from trtllm_ext.checkpoint.convert.source_files import WeightFile
from trtllm_ext.checkpoint.weights import expected_weights
from trtllm_ext.errors import CheckpointError
from trtllm_ext.suggest import nearest

_OUR_WEIGHT = re.compile(r"transformer\.layers\.(\d+)\.(.+)\.(weight|bias)")


@dataclass(frozen=True, kw_only=True)
class StackOptions:
    """What of a model becomes a stack.

    layers: Python's notation of a slice, '3:7', ':4', '-2:', or one layer's number; None for all.
    stack: of a model that has two, 'encoder' or 'decoder', 'text' or 'vision'; None for the first.
    attention_input: see `Contract`. stream_dtype: see `ResidualContract`.
    """

    layers: str | None = None
    stack: str | None = None
    attention_input: bool = False
    stream_dtype: str = "model"

    def given(self) -> dict[str, Any]:
        """Those that ask for something, by name."""
        plain = StackOptions()
        names = ("layers", "stack", "attention_input", "stream_dtype")
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value != getattr(plain, name)}


def chosen_layers(layers: str | None, depth: int, path: Path) -> range:
    """The layers of a model of `depth` that `layers` names; raises CheckpointError when there are none."""
    everything = range(depth)
    if layers is None:
        return everything
    if not isinstance(layers, str):
        raise CheckpointError(f"layers={layers!r} is not a text such as '3:7' or '3'.")
    single = re.fullmatch(r"\s*(-?\d+)\s*", layers)
    part = re.fullmatch(r"\s*(-?\d+)?\s*:\s*(-?\d+)?\s*", layers)
    chosen: range = range(0)
    if single and -depth <= int(single[1]) < depth:
        first = int(single[1]) % depth
        chosen = range(first, first + 1)
    elif part:
        begin, end = (None if text is None else int(text) for text in part.groups())
        inside = all(edge is None or -depth <= edge <= depth for edge in (begin, end))
        chosen = everything[begin:end] if inside else chosen
    if not chosen:
        raise CheckpointError(
            f"layers={layers!r} is not within the {depth} layers of {path.parent}, or names none of them. Give one "
            f"number from 0 to {depth - 1}, or a range such as '0:{min(depth, 4)}', whose end is not included."
        )
    return chosen


def plan_stack(
    specs: tuple[StackArchitecture, ...],
    model_dir: Path,
    data: Mapping[str, Any],
    weights: WeightFile,
    dtype: str,
    options: StackOptions,
) -> Plan:
    """Work out the conversion of a model's feed-forward sublayers without reading any weight's values.

    specs: of the model's architecture, one for each of its stacks.
    Raises CheckpointError for whatever in config and weights is unknown, missing, misshapen or unused.
    """
    path = model_dir / "config.json"
    spec = _choose(specs, options.stack, path)
    whole = HfConfig(path, data)
    _check_auto_map(whole, spec)
    config = _config_of(spec, whole)
    depth = _depth(config, spec)
    layers = chosen_layers(options.layers, depth, path)
    form = _with_stream(spec.read(config, layers), options.stream_dtype)
    config.unquantized()
    config.finish(spec.other_fields | HF_FIELDS_OUTSIDE_FEED_FORWARD)
    name = data["architectures"][0]
    model_config = stack_config(
        form.feed_forward,
        hidden_size=form.hidden_size,
        ffn_hidden_size=form.ffn_hidden_size,
        num_hidden_layers=len(layers),
        attention_input=options.attention_input,
        dtype=dtype,
        source=f"{name}, {spec.stack + ' ' if spec.stack else ''}layers {layers.start}:{layers.stop}",
    )
    weights = form.decode(weights)
    canonical = _names_in_layers(weights, spec, model_dir)
    prefix = next(theirs.removesuffix(name) for theirs, name in canonical.items() if theirs != name)
    source = SourceWeights(model_dir, weights, canonical, prefix)
    naming = _naming(form, expected_weights(model_config), source, layers)
    parts = plan_weights(
        model_config, source, lambda ours, shape: _source_weight(ours, shape, naming, layers)
    )
    _drop_others(source, specs, spec, layers, depth)
    source.finish()
    return Plan(model_config, parts, source)


def _check_auto_map(config: HfConfig, spec: StackArchitecture) -> None:
    """Code that comes with a model may compute anything; of the architecture's own name it is taken at its word."""
    places = config.get("auto_map", {})
    if not isinstance(places, dict):
        raise CheckpointError(f"{config.path}: auto_map={places!r} is not an object of classes' names.")
    known = tuple(prefix.lower() for prefix in (spec.prefix, *spec.code_prefixes))
    for place in places.values():
        for name in place if isinstance(place, list) else [place]:
            own = str(name or spec.prefix).rpartition(".")[2]
            if not own.lower().startswith(known):
                raise CheckpointError(
                    f"{config.path}: auto_map names {name!r}, code of the model's own, which may compute something "
                    f"else than {spec.prefix}. If it does not, take auto_map out of the file."
                )


def _with_stream(form: StackForm, stream_dtype: str) -> StackForm:
    known = get_args(StreamDtype)
    if stream_dtype not in known:
        raise CheckpointError(f"stream_dtype={stream_dtype!r} is not known. {nearest(stream_dtype, known)}")
    residual = replace(form.feed_forward.residual, stream_dtype=cast(StreamDtype, stream_dtype))
    return replace(form, feed_forward=replace(form.feed_forward, residual=residual))


def _choose(specs: tuple[StackArchitecture, ...], stack: str | None, path: Path) -> StackArchitecture:
    if stack is None:
        return specs[0]
    names = [spec.stack for spec in specs]
    if stack not in names:
        known = ", ".join(repr(name) for name in names if name)
        raise CheckpointError(
            f"{path}: stack={stack!r} is not one of this model's; "
            + (f"it has {known}." if known else "it has a single stack: leave the option out.")
        )
    return specs[names.index(stack)]


def _config_of(spec: StackArchitecture, config: HfConfig) -> HfConfig:
    """The object inside that has the stack's fields, or the config itself.

    What else stands in the outer one is about the other stacks and how they are joined; a code for all weights is not.
    """
    name = next((name for name in spec.nested_config if name in config), None)
    if name is None:
        return config
    config.unquantized()
    return config.nested(name)


def _depth(config: HfConfig, spec: StackArchitecture) -> int:
    default = spec.depth_unless_given
    if default is None:
        return config.size(spec.depth)
    # A field is read in any case: where it does not speak for this stack, it does for another.
    return config.size(spec.depth, config.size(default) if isinstance(default, str) else default)


def _names_in_layers(names: Iterable[str], spec: StackArchitecture, model_dir: Path) -> dict[str, str]:
    """Source name -> '3.mlp.fc.weight' for weights of layers; the others keep their names."""
    pattern = re.compile(rf"(?:{_any_of(spec.layers)})\.(\d+)\.(.+)")
    result, found = {}, False
    for source in names:
        match = pattern.fullmatch(source)
        found = found or match is not None
        result[source] = f"{int(match[1])}.{match[2]}" if match else source
    if not found:
        raise CheckpointError(
            f"{model_dir} has no weights of layers: expected are names that start with "
            f"{' or '.join(f'{prefix}.0.' for prefix in spec.layers)}, found are {', '.join(sorted(result)[:3])}, ..."
        )
    return result


def _naming(
    form: StackForm, expected: Mapping[str, Shape], source: SourceWeights, layers: range
) -> Mapping[str, str | Source]:
    """The naming of which the source has the largest share of names."""
    namings = [{**form.weights, **other} for other in ({}, *form.other_namings)]
    if len(namings) == 1:
        return namings[0]

    def share(naming: Mapping[str, str | Source]) -> float:
        weights = (_source_weight(ours, shape, naming, layers) for ours, shape in expected.items())
        names = {piece.name for weight in weights for piece in weight.pieces}
        return sum(name in source for name in names) / len(names)

    return max(namings, key=share)


def _source_weight(ours: str, shape: Shape, naming: Mapping[str, str | Source], layers: range) -> Weight:
    match = _OUR_WEIGHT.fullmatch(ours)
    if match is None or match[2] not in naming:
        raise CheckpointError(f"this architecture's spec does not say where its source has {ours}.")
    place = naming[match[2]]
    weight = (plain(place) if isinstance(place, str) else place)(match[3], shape)
    return _in_layer(weight, layers[int(match[1])])


def _in_layer(weight: Weight, layer: int) -> Weight:
    if isinstance(weight, Joined):
        return Joined(tuple(_named(piece, layer) for piece in weight.pieces), weight.shape)
    return _named(weight, layer)


def _named(piece: Piece, layer: int) -> Piece:
    return Piece(f"{layer}.{piece.name}", piece.source_shape, piece.ranges, piece.transposed)


def _drop_others(
    source: SourceWeights,
    specs: tuple[StackArchitecture, ...],
    spec: StackArchitecture,
    layers: range,
    depth: int,
) -> None:
    """Drop what belongs elsewhere; whatever has no known place stays, to be listed by the ledger."""
    others = _any_of(spec.beside)
    chosen, left = "|".join(map(str, layers)), "|".join(str(i) for i in range(depth) if i not in layers)
    source.drop_matching(rf"(?:{chosen})\.(?:{others})(?:\..+)?", "another part of its layer")
    if left:
        source.drop_matching(rf"(?:{left})\..+", "of a layer that was not chosen")
    for other in specs:
        if other is not spec:
            source.drop_matching(rf"(?:{_any_of(other.layers)})\.\d+\..+", f"of the {other.stack} stack")
    # Something that stands before a layer's usual name, such as an adapter, may change what the layer computes.
    places = [place for place in spec.layers if "." in place]  # 'layers' alone is anybody's
    inside = rf".*\.(?:{_any_of(places)})\.\d+\..*" if places else r"\b\B"
    source.drop_matching(rf"(?!\d+\.|{inside}).+", "not part of a layer")


def _any_of(names: Iterable[str]) -> str:
    return "|".join(map(re.escape, names))
