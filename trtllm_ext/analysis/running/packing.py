"""Input cut into runs that an engine's profile allows, with the place of every row among all tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trtllm_ext.checkpoint import ModelConfig
from trtllm_ext.errors import EngineError, InputError
from trtllm_ext.models.sentence_encoder import (
    SentenceEncoder,
    batches,
    load_tokenizer,
    tokenizer_file,
    was_cut,
)
from trtllm_ext.runtime import Session
from trtllm_ext.runtime.dtypes import numpy_dtype
from trtllm_ext.suggest import nearest

Array = np.ndarray[Any, Any]

_IDS, _MASK, _TYPES = "input_ids", "attention_mask", "token_type_ids"


@dataclass(frozen=True)
class Batch:
    """One run of an engine.

    arrays: its inputs. mask: bool [batch, seq], which tokens count, or None for packed tokens; rows of the arrays
        beyond it only fill the run up to the profile's least size.
    places: of the run's tokens, row by row without padding, among all tokens; starts: the first of each sentence.
    sentences: the numbers of the run's sentences. row_inputs: what each token was made of. labels: their texts.
    """

    arrays: Mapping[str, Array]
    mask: Array | None
    places: Array
    starts: tuple[int, ...]
    sentences: tuple[int, ...]
    row_inputs: Mapping[str, Array]
    labels: tuple[str, ...] | None

    @property
    def num_rows(self) -> int:
        return len(self.places)

    def rows_of(self, value: Array, name: str) -> tuple[Array, Any]:
        """The rows of an output that count, and their places."""
        if self.mask is None:
            return value[: self.num_rows], self.places
        if name == "sentence_embedding":
            return value[: len(self.sentences)], list(self.sentences)
        return value[: len(self.mask), : self.mask.shape[1]][self.mask], self.places


def batches_of_tokens(session: Session, inputs: dict[str, Array]) -> list[Batch]:
    """Packed tokens, cut to the profile's most; the last run is filled up where the profile has a least size."""
    typed = _typed(session, inputs)
    stream = typed["hidden_states"]
    least, _, most = (shape[0] for shape in session.profiles("hidden_states")[0])
    count = len(stream) if stream.ndim == 2 else 0
    if not count:
        raise InputError(
            f"hidden_states has shape {stream.shape}; expected [tokens, hidden] with a token or more."
        )
    given = typed.get("attention_output")
    if given is not None and (given.ndim != 3 or given.shape[1] != count):
        raise InputError(
            f"attention_output has shape {given.shape} beside {count} rows of hidden_states; expected [layers, "
            f"{count}, hidden]."
        )
    found = []
    for start in range(0, count, most):
        end = min(start + most, count)
        rows = np.minimum(np.arange(start, max(end, start + least)), end - 1)
        arrays = {
            name: np.ascontiguousarray(value[:, rows] if name == "attention_output" else value[rows])
            for name, value in typed.items()
        }
        kept = {"hidden_states": stream[start:end]}
        starts = (0,) if start == 0 else ()
        found.append(Batch(arrays, None, np.arange(start, end), starts, (), kept, None))
    return found


def batches_of_ids(
    session: Session, inputs: dict[str, Array], config: ModelConfig, tokenizer: str | None
) -> list[Batch]:
    """An encoder's own inputs, [batch, seq], cut to the profile's most sentences."""
    typed = _typed(session, inputs)
    ids, mask = typed[_IDS], typed[_MASK] != 0
    if ids.ndim != 2 or any(value.shape != ids.shape for value in typed.values()):
        shapes = ", ".join(f"{name} {value.shape}" for name, value in typed.items())
        raise InputError(f"the inputs have the shapes {shapes}; expected one [batch, seq] for all.")
    _check_ids(typed, config)
    (least, _, most) = session.profiles(_IDS)[0]
    if ids.shape[1] > most[1]:
        raise InputError(
            f"input_ids has {ids.shape[1]} tokens a sentence, and the engine's profile takes at most {most[1]}. Cut "
            f"the input, or build with --max_input_len {ids.shape[1]}."
        )
    if not mask.any(1).all():
        raise InputError(
            f"sentence {int(np.argmin(mask.any(1))) + 1} is nothing but padding by attention_mask; leave it out."
        )
    words = _vocabulary(session, tokenizer)
    length = max(least[1], ids.shape[1])
    offsets = np.concatenate([[0], np.cumsum(mask.sum(1))])
    found = []
    for start in range(0, len(ids), most[0]):
        chosen = list(range(start, min(start + most[0], len(ids))))
        filled = [chosen[min(row, len(chosen) - 1)] for row in range(max(len(chosen), least[0]))]
        arrays = {name: np.zeros((len(filled), length), np.int32) for name in typed}
        for name, value in typed.items():
            arrays[name][:, : value.shape[1]] = value[filled]
        labels = None if words is None else tuple(map(words, ids[chosen][mask[chosen]].tolist()))
        found.append(_encoder_batch(arrays, mask[chosen], chosen, offsets, labels))
    return found


def batches_of_sentences(session: Session, sentences: list[str], tokenizer: str | None) -> list[Batch]:
    """Sentences of similar length together. Raises InputError for one that the engine would cut."""
    encoder = SentenceEncoder(session, tokenizer)
    tokens = encoder.tokenize(sentences)
    for number, each in enumerate(tokens, 1):
        if was_cut(each):
            raise InputError(
                f"sentence {number} is longer than {encoder.max_length} tokens, {encoder.bound}. Shorten it, so that "
                "what is shown is of the whole of it."
            )
    offsets = np.concatenate([[0], np.cumsum([len(each.ids) for each in tokens])])
    most = session.profiles(_IDS)[0][2][0]
    found = []
    for chosen in batches([len(each.ids) for each in tokens], most):
        arrays = encoder.arrays([tokens[index] for index in chosen])
        labels = tuple(label for index in chosen for label in tokens[index].tokens)
        found.append(_encoder_batch(arrays, arrays[_MASK][: len(chosen)] != 0, chosen, offsets, labels))
    return found


def _encoder_batch(
    arrays: dict[str, Array], mask: Array, chosen: list[int], offsets: Array, labels: tuple[str, ...] | None
) -> Batch:
    """offsets: the first place of each sentence."""
    places = np.concatenate([np.arange(offsets[index], offsets[index + 1]) for index in chosen])
    cut = (slice(len(chosen)), slice(mask.shape[1]))
    rows = {name: value[cut][mask] for name, value in arrays.items() if name != _MASK}
    rows["positions"] = np.broadcast_to(np.arange(mask.shape[1], dtype=np.int32), mask.shape)[mask]
    starts = tuple(int(offsets[index]) for index in chosen)
    return Batch(arrays, mask, places, starts, tuple(chosen), rows, labels)


def _typed(session: Session, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The engine's inputs in its types; floats are converted, since what they stand for is what is asked about."""
    names = [info.name for info in session.inputs]
    for name in inputs:
        if name not in names:
            raise InputError(f"{name!r} is not an input of the engine. {nearest(name, names)}")
    typed = {}
    for info in session.inputs:
        if info.name not in inputs and info.name in session.input_defaults:
            continue
        if info.name not in inputs:
            raise InputError(f"the input {info.name!r} is missing; the engine takes {', '.join(names)}.")
        value, wanted = np.asarray(inputs[info.name]), numpy_dtype(info.dtype)
        if value.dtype.kind == "V" and value.dtype.itemsize == wanted.itemsize:
            value = value.view(wanted)  # numpy writes types that are not its own as raw bytes
        is_number = value.dtype.kind in "iuf" or value.dtype == wanted
        if not is_number or (wanted.kind in "iu" and value.dtype.kind not in "iu"):
            raise InputError(f"the input {info.name!r} is {value.dtype}; expected {wanted}.")
        hidden = info.shape[-1]
        if value.ndim != len(info.shape) or (hidden > 0 and value.shape[-1] != hidden):
            raise InputError(
                f"the input {info.name!r} has shape {value.shape}, and the engine takes {info.shape} (-1: any length)."
            )
        typed[info.name] = value.astype(wanted)
    return typed


def _check_ids(typed: Mapping[str, Array], config: ModelConfig) -> None:
    for name, size in ((_IDS, config.vocab_size), (_TYPES, config.type_vocab_size)):
        value = typed.get(name)
        if value is not None and size and ((value < 0) | (value >= size)).any():
            wrong = int(value[(value < 0) | (value >= size)][0])
            raise InputError(f"the input {name!r} has {wrong}; expected ids of 0 to {size - 1}.")


def _vocabulary(session: Session, tokenizer: str | None) -> Any:
    """From an id to its text, where the engine's directory or the caller has a tokenizer; else None."""
    directory = session.engine_dir
    if tokenizer is None and (directory is None or directory.tokenizer_path is None):
        return None
    file = tokenizer_file(tokenizer, directory)
    try:
        reader = load_tokenizer(file)
    except EngineError:
        if tokenizer is not None:
            raise
        return None  # nobody asked for texts, and ids do without
    return lambda number: reader.id_to_token(number) or f"id {number}"


def labels_or_numbers(labels: Sequence[str] | None, count: int) -> list[str]:
    """Texts for rows: the tokens, or their numbers."""
    return [f"token {number}" for number in range(count)] if labels is None else list(labels)
