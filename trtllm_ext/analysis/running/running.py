"""The residual stream of given input: an engine with taps is run, and what they show put in the order of layers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from trtllm_ext.analysis.running.packing import Batch, batches_of_ids, batches_of_sentences, batches_of_tokens
from trtllm_ext.builder.engine import EngineConfig
from trtllm_ext.checkpoint import ModelConfig
from trtllm_ext.errors import ConfigError, EngineError, InputError
from trtllm_ext.runtime import EngineDir, Session

Array = np.ndarray[Any, Any]
Kind = Literal["attention", "mlp"]

POINTS = ("before", "contribution", "after")


@dataclass(frozen=True)
class StreamPart:
    """A sublayer that writes to the stream. name: 'transformer.layers.3.mlp'."""

    name: str
    layer: int
    kind: Kind


@dataclass(frozen=True)
class StreamRun:
    """What an engine's taps gave, one row a token, padding left out.

    parts: in the order of execution.
    before, contribution, after: by part, float32 [tokens, hidden]; with hyper-connections before and after are [tokens,
        streams, hidden]. Where attention and feed-forward join in one sum, both have that sum's before and after.
    inputs: what each token was made of, by input: hidden_states [tokens, hidden], or input_ids, token_type_ids and
        positions [tokens].
    starts: the row at which each sentence begins, and the number of rows; one sentence where nothing says more.
    output: float32 [tokens, hidden], the engine's own, after a final norm where it has one.
    pooled: float32 [sentences, hidden], or None.
    tokens: a text for each row, or None.
    stream_dtype: the type that the stream had in the engine, whose rounding its sums carry.
    """

    config: ModelConfig
    parts: tuple[StreamPart, ...]
    before: Mapping[str, Array]
    contribution: Mapping[str, Array]
    after: Mapping[str, Array]
    inputs: Mapping[str, Array]
    starts: tuple[int, ...]
    output: Array
    pooled: Array | None
    tokens: tuple[str, ...] | None

    @property
    def num_tokens(self) -> int:
        return len(self.output)

    @property
    def stream_dtype(self) -> str:
        return self.config.stream_dtype


def stream_parts(config: ModelConfig) -> tuple[StreamPart, ...]:
    """The sublayers whose contributions the model's taps show, in the order of execution."""
    contract = config.contract
    has_attention = contract.attention is not None or contract.attention_input
    kinds: tuple[Kind, ...] = ("attention", "mlp") if has_attention else ("mlp",)
    return tuple(
        StreamPart(f"transformer.layers.{layer}.{kind}", layer, kind)
        for layer in range(config.num_hidden_layers)
        for kind in kinds
    )


def is_one_sum(config: ModelConfig) -> bool:
    """Whether attention's given contribution joins the stream in one sum with the feed-forward's."""
    return config.contract.attention_input and config.contract.feed_forward.residual.parallel != "none"


def needed_taps(config: ModelConfig) -> tuple[str, ...]:
    """The names of the taps that an engine of this model is to have."""
    names = []
    for part in stream_parts(config):
        beside = part.kind == "attention" and is_one_sum(config)
        names += [f"{part.name}.{point}" for point in (("contribution",) if beside else POINTS)]
    return tuple(names)


def stream_of(
    engine_dir: str | os.PathLike[str],
    inputs: Mapping[str, Any] | None = None,
    *,
    sentences: Sequence[str] | None = None,
    tokenizer: str | None = None,
    progress: Any = None,
) -> StreamRun:
    """Run an engine on input, in pieces that its profile allows, and gather what its taps show.

    inputs: arrays by the engine's names: hidden_states [tokens, hidden] (and attention_output [layers, tokens, hidden])
        of any number of tokens, or an encoder's input_ids, attention_mask and token_type_ids [batch, seq].
    sentences: in place of inputs, for an encoder. tokenizer: as for `SentenceEncoder`; also names the tokens of ids.
    progress: called as progress(step, done, total) after each piece.
    Raises EngineError for an engine without the taps needed, or of several ranks; ConfigError unless one of inputs and
    sentences is given; InputError for what does not fit the engine, such as a sentence longer than its profile.
    """
    if (inputs is None) == (sentences is None):
        raise ConfigError(
            "give either inputs (arrays by name) or sentences (texts), not both and not neither."
        )
    config = check_taps(engine_dir)
    check_source(config, of_sentences=sentences is not None)
    with closing(Session.from_engine_dir(engine_dir, 0)) as session:
        if sentences is not None:
            batches = batches_of_sentences(session, list(sentences), tokenizer)
        elif config.contract.embedding is not None:
            batches = batches_of_ids(session, dict(inputs or {}), config, tokenizer)
        else:
            batches = batches_of_tokens(session, dict(inputs or {}))
        return _gathered(session, config, batches, progress)


def check_source(config: ModelConfig, *, of_sentences: bool) -> None:
    """Raise InputError for sentences where the model is a stack, which reads a stream and no text."""
    if of_sentences and config.contract.embedding is None:
        raise InputError(
            f"this is a stack of {config.source or 'sublayers'}, which reads hidden_states and no text. Give --input "
            "with an .npz of them; `trtllm-ext stream capture` writes one from text."
        )


def check_taps(engine_dir: str | os.PathLike[str]) -> ModelConfig:
    """The config of the engine's model. Raises EngineError where `stream_of` would for the engine's sake."""
    directory = EngineDir.read(os.fspath(engine_dir), 0)
    engine = EngineConfig.from_dict(directory.config)
    try:
        config = ModelConfig.from_dict(dict(engine.pretrained_config))
    except ConfigError as problem:
        raise EngineError(f"{engine_dir} was built from a model that is not known: {problem}") from None
    again = f"trtllm-ext build --checkpoint_dir CHECKPOINT --output_dir {os.fspath(engine_dir)} --taps '*'"
    if engine.world_size != 1:
        raise EngineError(
            f"{engine_dir} is an engine of {engine.world_size} ranks, and the stream is read from one. Give "
            "--checkpoint_dir with its checkpoint, whose ranks are put together, or convert it for one rank and build "
            f"that: {again}."
        )
    missing = [name for name in needed_taps(config) if name not in engine.taps]
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise EngineError(
            f"{engine_dir} was built without the tap {missing[0]}{others}, so its stream cannot be seen. Build it with "
            f"all taps: {again}."
        )
    return config


def _gathered(session: Session, config: ModelConfig, batches: Sequence[Batch], progress: Any) -> StreamRun:
    """Run all batches; rows come out in the order in which the input gave them."""
    total = sum(batch.num_rows for batch in batches)
    kept: dict[str, Array] = {}
    done = 0
    for batch in batches:
        for name, value in session.run(batch.arrays).items():
            rows, places = batch.rows_of(value, name)
            if name not in kept:
                count = max(int(each.places.max(initial=-1)) for each in batches) + 1
                if name == "sentence_embedding":
                    count = max(max(each.sentences, default=-1) for each in batches) + 1
                kept[name] = np.empty((count, *rows.shape[1:]), np.float32)
            kept[name][places] = rows
        done += batch.num_rows
        if progress is not None:
            progress("running the engine", done, total)
    return _run_of(config, batches, kept)


def _run_of(config: ModelConfig, batches: Sequence[Batch], kept: dict[str, Array]) -> StreamRun:
    parts = stream_parts(config)
    found: dict[str, dict[str, Array]] = {point: {} for point in POINTS}
    last: Array | None = None
    for part in parts:
        source = part.name
        if part.kind == "attention" and is_one_sum(config):
            source = part.name.removesuffix("attention") + "mlp"
        before = kept[f"{source}.before"]
        # A stream that nothing stands between is one array, not two of the same numbers.
        if last is not None and before.shape == last.shape and np.array_equal(before, last):
            before = kept[f"{source}.before"] = last
        found["before"][part.name] = before
        found["contribution"][part.name] = kept[f"{part.name}.contribution"]
        found["after"][part.name] = last = kept[f"{source}.after"]
    is_encoder = config.contract.embedding is not None
    return StreamRun(
        config,
        parts,
        **found,
        inputs=_joined([batch.row_inputs for batch in batches], [batch.places for batch in batches]),
        starts=_starts(batches),
        output=kept["last_hidden_state" if is_encoder else "hidden_states_out"],
        pooled=kept.get("sentence_embedding"),
        tokens=_labels(batches),
    )


def _joined(values: Sequence[Mapping[str, Array]], places: Sequence[Array]) -> dict[str, Array]:
    count = max(int(each.max(initial=-1)) for each in places) + 1
    joined = {}
    for name, first in values[0].items():
        dtype = first.dtype if first.dtype.kind in "iu" else np.dtype(np.float32)
        joined[name] = np.empty((count, *first.shape[1:]), dtype)
        for value, place in zip(values, places, strict=True):
            joined[name][place] = value[name]
    return joined


def _starts(batches: Sequence[Batch]) -> tuple[int, ...]:
    starts = sorted(start for batch in batches for start in batch.starts)
    return (*starts, sum(batch.num_rows for batch in batches))


def _labels(batches: Sequence[Batch]) -> tuple[str, ...] | None:
    pairs: list[tuple[int, str]] = []
    for batch in batches:
        if batch.labels is None:
            return None
        pairs += zip(batch.places.tolist(), batch.labels, strict=True)
    return tuple(label for _, label in sorted(pairs))


def sentence_rows(run: StreamRun) -> Iterator[slice]:
    """The rows of each sentence."""
    for start, end in pairwise(run.starts):
        yield slice(start, end)


def labelled(run: StreamRun, labels: Sequence[str] | None) -> StreamRun:
    """The run with texts for its tokens, where it has none and there is one for each."""
    if run.tokens is not None or labels is None or len(labels) != run.num_tokens:
        return run
    return replace(run, tokens=tuple(labels))
