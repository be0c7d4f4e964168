"""The parts of a stack of a Hugging Face folder: attention, embedding, final norm and heads by its spec's names."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy.typing as npt

from trtllm_ext.analysis.stream_map.contract_map import ContractParts
from trtllm_ext.analysis.stream_map.stored import Matrix, Vector, matrix, rows, vector
from trtllm_ext.analysis.stream_map.stream_map import Norm, Part, Reader, Writer
from trtllm_ext.checkpoint.contract import NormContract
from trtllm_ext.checkpoint.convert.architectures.around import AttentionNames, Table
from trtllm_ext.checkpoint.convert.architectures.spec import StackArchitecture
from trtllm_ext.checkpoint.convert.pieces import Piece
from trtllm_ext.checkpoint.convert.plan import Plan
from trtllm_ext.checkpoint.convert.source_files import WeightFile
from trtllm_ext.errors import CheckpointError

_WITH_HEAD = re.compile(r".*(ForCausalLM|LMHeadModel|ForConditionalGeneration|MTModel|DoubleHeadsModel)")


@dataclass(frozen=True)
class FolderWeights:
    """A model folder's weights."""

    file: WeightFile

    def values(self, name: str) -> npt.NDArray:
        return self.file[name]

    def release_pages(self, name: str) -> None:
        self.file.release_pages(name)


class FolderParts:
    """Makes all parts of a stack. missing: what of the model is not in them, as sentences."""

    def __init__(
        self,
        path: Path,
        fields: Mapping[str, Any],
        spec: StackArchitecture,
        plan: Plan,
        weights: FolderWeights,
        model: ContractParts,
    ) -> None:
        assert spec.around is not None
        self._path, self._fields, self._names = path, fields, spec.around
        self._weights, self._model, self._config = weights, model, plan.config
        self._hidden = plan.config.hidden_size
        self._residual = plan.config.contract.feed_forward.residual
        self._in_source = set(weights.file)
        self._layers = self._find_layers(spec)
        words = self._layers.split(".")
        base, above = (".".join(words[:-count]) for count in (1, 2))
        self._places = {"base": base and f"{base}.", "above": above and f"{above}."}
        self._has_head = bool(_WITH_HEAD.fullmatch(str(fields["architectures"][0])))
        self.missing: list[str] = []

    def _find_layers(self, spec: StackArchitecture) -> str:
        found = re.compile(rf"({'|'.join(map(re.escape, spec.layers))})\.\d+\..+")
        return next(match[1] for match in map(found.fullmatch, self._in_source) if match)

    def parts(self) -> Iterator[Part]:
        yield self._embedding()
        for index in range(self._config.num_hidden_layers):
            for attention in self._names.attention:
                part = self._attention(index, attention)
                if part is not None:
                    yield part
            yield self._model.feed_forward(index)
        final = self._final_norm()
        if final is not None:
            yield Part("transformer.ln_f", None, "final_norm", norm=final)
        yield from self._heads(final)

    # --- the embedding ------------------------------------------------------------------------------------

    def _embedding(self) -> Part:
        writers = []
        for table in self._names.tables:
            name = self._first(table.names)
            if name is None:
                self._note_absent(table)
                continue
            shape = self._shape(name)
            bias = f"{name.removesuffix('.weight')}.bias"
            stored = self._table(table, name)
            if stored is None:
                self.missing.append(
                    f"{name} {shape} has vectors of another size, which project_in brings to the stream's"
                )
                continue
            writers.append(
                Writer(
                    stored,
                    table.role,
                    self._bias(bias) if table.form == "matrix" else None,
                    scale=table.scale(self._fields),
                )
            )
        norm = self._norm_of(self._names.embedding_norm) if self._names.embedding_norm else None
        return Part("transformer.embedding", None, "embedding", writers=tuple(writers), norm=norm)

    def _note_absent(self, table: Table) -> None:
        if not table.optional:
            names = " or ".join(name.format(**self._places) for name in table.names)
            raise CheckpointError(
                f"{self._path} has no {names}, which writes the stream before the first layer."
            )
        if table.computed:
            self.missing.append(
                f"{table.role} vectors are computed and not stored: they are added to the stream by code"
            )

    def _table(self, table: Table, name: str) -> Matrix | None:
        """As (hidden, columns); None where the vectors are of another size."""
        shape = self._shape(name)
        piece = Piece(name, shape)
        columns = math.prod(shape) // self._hidden
        if table.form == "matrix":
            return matrix(name, self._weights, (piece,), (self._hidden, columns))
        if shape[-1] != self._hidden:
            return None
        if len(shape) > 1:
            piece = piece.transpose()
        return matrix(name, self._weights, (piece,), (self._hidden, columns))

    # --- attention ----------------------------------------------------------------------------------------

    def _attention(self, index: int, names: AttentionNames) -> Part | None:
        layer = f"{self._layers}.{index}"
        if f"{layer}.{names.writes}.weight" not in self._in_source and names.optional:
            return None
        placement = self._residual.placement
        norm = None if self._residual.norm is None else self._norm(layer, names.norm, self._residual.norm)
        post = None
        if self._residual.post_norm is not None and names.post_norm is not None:
            post = self._norm(layer, (names.post_norm,), self._residual.post_norm)
        before = norm if placement in ("pre", "sandwich") else None
        branch = norm if placement == "branch" else post
        gate = None
        if names.gate is not None and f"{layer}.{names.gate}" in self._in_source:
            gate = self._vector(f"{layer}.{names.gate}")
        written, bias = self._linear(f"{layer}.{names.writes}", names.transposed)
        writer = Writer(written, "dense", bias, *_fields_of(branch), gate=gate, scale=self._residual.scale)
        readers = tuple(self._readers(layer, names, before))
        residual = replace(self._residual, gate=self._residual.gate if gate is not None else "none")
        return Part(
            f"transformer.layers.{index}.{names.name}",
            index,
            "attention",
            residual,
            readers,
            (writer,),
            norm if placement == "post" else None,
            remarks=("k and v read another stack's output",) if names.others else (),
        )

    def _readers(self, layer: str, names: AttentionNames, norm: Norm | None) -> Iterator[Reader]:
        for role, stem in names.reads.items():
            found, bias = self._linear(f"{layer}.{stem}", names.transposed)
            yield Reader(found, role, bias, *_fields_of(norm))
        if names.fused is None or names.split is None:
            return
        stem = f"{layer}.{names.fused}"
        whole = self._pieces(f"{stem}.weight", names.transposed)
        height = whole[0].shape[0]
        biases = self._pieces(f"{stem}.bias", False) if f"{stem}.bias" in self._in_source else None
        for role, ranges in names.split(self._fields, height).items():

            def part(pieces: tuple[Piece, ...], ranges: tuple[range, ...] = ranges) -> list[Piece]:
                return [piece for each in ranges for piece in rows(pieces, each.start, each.stop)]

            found = matrix(f"{stem}.{role}", self._weights, part(whole))
            bias = None if biases is None else vector(f"{stem}.{role}.bias", self._weights, part(biases))
            yield Reader(found, role, bias, *_fields_of(norm))

    # --- behind the last layer ----------------------------------------------------------------------------

    def _final_norm(self) -> Norm | None:
        form = self._residual.norm
        if form is None or self._residual.placement == "post" or not self._names.final_norm:
            return None
        if form.weight and self._first(tuple(f"{name}.weight" for name in self._names.final_norm)) is None:
            self.missing.append("no norm of the last stream is stored")
            return None
        return self._norm_of(self._names.final_norm)

    def _heads(self, final: Norm | None) -> Iterator[Part]:
        scale = self._names.logits_scale(self._fields)
        remarks = () if self._names.head_remark is None else (self._names.head_remark,)
        found = False
        for stem in dict.fromkeys(name.format(**self._places) for name in self._names.heads):
            name = f"{stem}.weight"
            if name not in self._in_source:
                continue
            found = True
            for reader in self._head(stem, final, scale):
                yield Part(reader.matrix.name, None, "head", readers=(reader,), remarks=remarks)
        words = next((table for table in self._names.tables if table.role == "vocab"), self._names.tables[0])
        table = self._first(words.names)
        if found or not (self._has_head and self._names.tied) or table is None:
            return
        if self._shape(table)[-1] == self._hidden:
            tied = matrix("lm_head", self._weights, (Piece(table, self._shape(table)),))
            bias = next(
                (
                    self._bias(each)
                    for each in ("lm_head.bias", "final_logits_bias")
                    if each in self._in_source
                ),
                None,
            )
            reader = Reader(tied, "head", bias, *_fields_of(final), scale=scale)
            yield Part("lm_head", None, "head", readers=(reader,), remarks=remarks)

    def _head(self, stem: str, final: Norm | None, scale: float) -> Iterator[Reader]:
        """One reader, or one for each vector of the stream that the head takes side by side (DINOv2's classifier)."""
        name = f"{stem}.weight"
        shape = self._shape(name)
        height, width = shape[0], math.prod(shape[1:])
        count = width // self._hidden
        if width % self._hidden or (count > 1 and len(shape) != 2):
            self.missing.append(f"{name} {self._shape(name)} does not read vectors of the stream's size")
            return
        for number in range(count):
            piece = Piece(name, shape)
            if count > 1:
                piece = piece.take(1, slice(number * self._hidden, (number + 1) * self._hidden))
            label = stem if count == 1 else f"{stem}[{number}]"
            bias = self._bias(f"{stem}.bias") if number == 0 else None
            yield Reader(
                matrix(label, self._weights, (piece,), (height, self._hidden)),
                "head",
                bias,
                *_fields_of(final),
                scale=scale,
            )

    # --- by name ------------------------------------------------------------------------------------------

    def _first(self, names: tuple[str, ...]) -> str | None:
        return next(
            (name for name in (name.format(**self._places) for name in names) if name in self._in_source),
            None,
        )

    def _shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._weights.file[name].shape)

    def _pieces(self, name: str, transposed: bool) -> tuple[Piece, ...]:
        if name not in self._in_source:
            raise CheckpointError(f"{self._path} has no {name}, which reads or writes the residual stream.")
        piece = Piece(name, self._shape(name))
        return (piece.transpose() if transposed else piece,)

    def _linear(self, stem: str, transposed: bool) -> tuple[Matrix, Vector | None]:
        found = matrix(stem, self._weights, self._pieces(f"{stem}.weight", transposed))
        # GPT-NeoX-Japanese keeps the bias beside the matrix.
        return found, self._bias(f"{stem}.bias") or self._bias(f"{stem}_bias")

    def _bias(self, name: str) -> Vector | None:
        return self._vector(name) if name in self._in_source else None

    def _vector(self, name: str, offset: float = 0.0) -> Vector:
        return vector(name, self._weights, (Piece(name, self._shape(name)),), offset=offset)

    def _norm_of(self, names: tuple[str, ...]) -> Norm:
        assert self._residual.norm is not None
        return self._norm(None, tuple(name.format(**self._places) for name in names), self._residual.norm)

    def _norm(self, layer: str | None, names: tuple[str, ...], form: NormContract) -> Norm:
        stems = [name if layer is None else f"{layer}.{name}" for name in names]
        if not form.weight:
            return Norm(form, None, None)
        stem = next((stem for stem in stems if f"{stem}.weight" in self._in_source), None)
        if stem is None:
            raise CheckpointError(f"{self._path} has no {' or '.join(f'{each}.weight' for each in stems)}.")
        gain = self._vector(f"{stem}.weight", form.weight_offset)
        return Norm(form, gain, self._vector(f"{stem}.bias") if form.bias else None)


def _fields_of(norm: Norm | None) -> tuple[NormContract | None, Vector | None, Vector | None]:
    return (None, None, None) if norm is None else (norm.contract, norm.gain, norm.shift)
