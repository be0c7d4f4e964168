"""The map of a Hugging Face folder: the feed-forward by the converter's plan, what is around it by its spec."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from trtllm_ext.analysis.stream_map.contract_map import ContractParts
from trtllm_ext.analysis.stream_map.folder_parts import FolderParts, FolderWeights
from trtllm_ext.analysis.stream_map.stored import Matrix, Vector
from trtllm_ext.analysis.stream_map.stream_map import Part, Reader, StreamMap, Writer
from trtllm_ext.checkpoint.convert.architectures import specs_by_class
from trtllm_ext.checkpoint.convert.architectures.spec import StackArchitecture
from trtllm_ext.checkpoint.convert.convert import plan_folder
from trtllm_ext.checkpoint.convert.pieces import Piece
from trtllm_ext.checkpoint.convert.plan import Plan
from trtllm_ext.checkpoint.convert.stack import StackOptions

_NOT_DESCRIBED = "not described"
_INSIDE = re.compile(r".*\.[qk]_(norm|layernorm)\.(weight|bias)")
_ELSEWHERE = "of another stack of the model, whose stream is another"


def map_of_folder(path: Path, data: Mapping[str, Any], stack: str | None = None) -> StreamMap:
    """Of a Hugging Face folder that the converters read. data: its config.json.

    Raises CheckpointError for whatever the converter refuses, and for weights around the feed-forward that are not
    there.
    """
    plan = plan_folder(path, data, StackOptions(stack=stack))
    weights = FolderWeights(next(iter(plan.parts.values()))[0].weights)

    def pieces(name: str) -> tuple[Piece, ...]:
        return tuple(replace(view.piece, name=view.source) for view in plan.parts[name])

    model = ContractParts(plan.config, weights, pieces)
    missing: list[str] = []
    if plan.config.contract.embedding is not None:
        parts = tuple(model.parts())
    else:
        spec = _spec(data, stack)
        if spec.around is None:
            missing.append(
                f"what stands around the feed-forward sublayers of {spec.model_type} is not described"
            )
            parts = tuple(model.parts())
        else:
            around = FolderParts(path, _fields(data, spec), spec, plan, weights, model)
            parts = tuple(around.parts())
            missing += around.missing
    return StreamMap(
        source=path,
        architecture=data["architectures"][0],
        hidden_size=plan.config.hidden_size,
        num_layers=plan.config.num_hidden_layers,
        parts=parts,
        weights=weights,
        missing=tuple(missing),
        left_out=_left_out(parts, weights, plan, data, stack),
    )


def _spec(data: Mapping[str, Any], stack: str | None) -> StackArchitecture:
    specs = specs_by_class()[data["architectures"][0]]
    return next(spec for spec in specs if stack is None or spec.stack == stack)


def _fields(data: Mapping[str, Any], spec: StackArchitecture) -> Mapping[str, Any]:
    """The object with the stack's fields. The outer one's fields count where the inner one has none."""
    inner: Mapping[str, Any] = next(
        (data[name] for name in spec.nested_config if isinstance(data.get(name), dict)), {}
    )
    return {**data, **inner}


def _left_out(
    parts: tuple[Part, ...], weights: FolderWeights, plan: Plan, data: Mapping[str, Any], stack: str | None
) -> dict[str, str]:
    """What has an axis of the hidden size and is in no part."""
    used = {piece.name for part in parts for piece in _pieces_of(part)}
    elsewhere = _elsewhere(data, stack)
    hidden = plan.config.hidden_size
    result = {}
    for name in weights.file:
        if name not in used and hidden in weights.file[name].shape:
            result[name] = _ELSEWHERE if elsewhere.match(name) else _NOT_DESCRIBED
            if _INSIDE.fullmatch(name):
                result[name] = "a norm of what q or k gives, whose width happens to be the stream's"
    return result


def _elsewhere(data: Mapping[str, Any], stack: str | None) -> re.Pattern[str]:
    """Names of what computes with another stack's stream."""
    names = data["architectures"][0]
    others = [r"(model\.)?(vision_tower\.|multi_modal_projector\.mm_soft_emb_norm\.)"]
    if names in specs_by_class():
        spec = _spec(data, stack)
        words = {"encoder": "decoder", "decoder": "encoder", "text": "vision", "vision": "text"}
        other = words.get(spec.stack or "")
        if other is not None:
            others += [
                rf"(model\.|transformer\.)?{other}(_model)?\.",
                rf"{other}_projection\.",
                "visual_projection",
            ]
        cross = [
            re.escape(stem)
            for names in (spec.around.attention if spec.around else ())
            for stem in names.others
        ]
        others += [rf".*\.\d+\.{stem}\." for stem in cross]
    return re.compile("|".join(others))


def _pieces_of(part: Part) -> Iterator[Piece]:
    items: list[Matrix | Vector | None] = []
    both: tuple[Reader | Writer, ...] = (*part.readers, *part.writers)
    for each in both:
        items += [each.matrix, each.bias, each.gain, each.shift, getattr(each, "gate", None)]
    if part.norm is not None:
        items += [part.norm.gain, part.norm.shift]
    for item in items:
        if item is not None:
            yield from item.pieces
