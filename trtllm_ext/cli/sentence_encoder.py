"""Sentences to vectors with a session of an encoder engine."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtllm_ext.errors import ConfigError, EngineError, InputError

if TYPE_CHECKING:
    import numpy as np

    from trtllm_ext.checkpoint import ModelConfig
    from trtllm_ext.runtime import EngineDir, Session

OUTPUT = "sentence_embedding"
_MOST_TOKENS = 8192


class SentenceEncoder:
    """Sentences to vectors: tokenizer, batches within the engine's profile, and the engine.

    session: of an engine directory. tokenizer: a tokenizer.json or a folder with it; by default the engine's own.
    max_length: the tokens that a sentence is cut to, and bound: what says so, the model or the engine.
    num_cut: how many sentences of the last `encode` were longer.
    Raises EngineError for an engine that is not an encoder's, InputError for a tokenizer that cannot be read.
    """

    def __init__(self, session: "Session", tokenizer: str | None = None) -> None:
        inputs = {info.name: info for info in session.inputs}
        outputs = {info.name for info in session.outputs}
        if "input_ids" not in inputs or OUTPUT not in outputs:
            raise EngineError(
                f"this engine takes {', '.join(inputs)} and gives {', '.join(outputs)}; embed needs an encoder with "
                f"input_ids and {OUTPUT}. `trtllm-ext run` runs any engine."
            )
        self._session = session
        self._names = tuple(inputs)
        (self._least, _, self._most) = session.profiles("input_ids")[0]
        config = _model_config(session.engine_dir)
        self._vocab_size = config.vocab_size or 0
        self._num_types = config.type_vocab_size or 0
        self._tokenizer_file = _tokenizer_file(tokenizer, session.engine_dir)
        self._tokenizer = _load_tokenizer(self._tokenizer_file)
        pooling, engine_most = config.contract.pooling, self._most[1]
        model_most = (pooling and pooling.max_seq_length) or config.num_positions or engine_most
        self.max_length = min(model_most, engine_most)
        self.bound = "the model's own limit (max_seq_length)"
        if engine_most < model_most:
            self.bound = (
                f"the most that this engine takes; build it with a larger --max_input_len for more (the model reads up "
                f"to {model_most})"
            )
        special = self._tokenizer.num_special_tokens_to_add(False)
        if self.max_length <= special:
            way_out = f"Build it with --max_input_len {special + 1} or more."
            if model_most <= special:
                way_out = "That is the model's own limit, which no build changes; its tokenizer or its config is wrong."
            raise EngineError(
                f"this engine's inputs of at most {self.max_length} token(s) are too short for the tokenizer's "
                f"{special} special tokens and a word. {way_out}"
            )
        self.num_cut = 0

    def encode(self, sentences: list[str]) -> "np.ndarray[Any, Any]":
        """float32 [sentences, hidden], in the order given.

        Raises InputError for a sentence with a token that the model has no embedding for.
        """
        return self.encode_tokens(self.tokenize(sentences))

    def encode_tokens(self, tokens: list[Any]) -> "np.ndarray[Any, Any]":
        """As `encode`, of what `tokenize` gave."""
        import numpy as np

        rows: dict[int, np.ndarray[Any, Any]] = {}
        for batch in batches([len(each.ids) for each in tokens], self._most[0]):
            vectors = self._session.run(self._arrays([tokens[index] for index in batch]))[OUTPUT]
            rows.update(zip(batch, vectors.astype(np.float32), strict=False))
        return np.stack([rows[index] for index in range(len(tokens))])

    def tokenize(self, sentences: list[str]) -> list[Any]:
        """Each sentence's tokens, cut to `max_length`. Raises InputError as `encode` does."""
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        full = self._tokenizer.encode_batch(sentences)
        self.num_cut = sum(len(each.ids) > self.max_length for each in full)
        if self.num_cut:
            self._tokenizer.enable_truncation(self.max_length)
            full = self._tokenizer.encode_batch(sentences)
        for number, each in enumerate(full, 1):
            highest = max(each.ids, default=0)
            if highest >= self._vocab_size:
                raise InputError(
                    f"sentence {number} has the token id {highest}; this engine's vocabulary has the ids 0 to "
                    f"{self._vocab_size - 1}. {self._tokenizer_file} belongs to another model; give --tokenizer with "
                    f"the folder that this one was converted from."
                )
        return list(full)

    def _arrays(self, batch: list[Any]) -> "dict[str, np.ndarray[Any, Any]]":
        import numpy as np

        rows = max(len(batch), self._least[0])
        length = max(self._least[1], *(len(each.ids) for each in batch))
        parts = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
        arrays = {}
        for name in self._names:
            if name not in parts:
                raise EngineError(f"embed does not know what to give for the engine's input {name!r}.")
            array = np.zeros((rows, length), np.int32)  # the mask hides padding, so any valid id does
            arrays[name] = array
            if name == "token_type_ids" and self._num_types == 1:
                continue  # tokenizers of such models may count types that the model was trained without
            for row in range(rows):
                # Rows beyond the batch only fill it up to the engine's least size.
                values = getattr(batch[min(row, len(batch) - 1)], parts[name])
                array[row, : len(values)] = values
        return arrays


def batches(lengths: list[int], most_rows: int) -> Iterator[list[int]]:
    """Indices of sentences to run together: at most `most_rows`, and `_MOST_TOKENS` padding included.

    Neighbours of similar length waste the least on padding. What limits a batch here is memory: an engine's largest
    batch of its longest sentences can ask for more than a machine has.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) == most_rows or (len(batch) + 1) * lengths[index] > _MOST_TOKENS):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _model_config(engine_dir: "EngineDir | None") -> "ModelConfig":
    from trtllm_ext.checkpoint import ModelConfig

    if engine_dir is None:
        raise EngineError("sentences need the engine's directory, which says what model it holds.")
    try:
        return ModelConfig.from_dict(engine_dir.config["pretrained_config"], rank=engine_dir.rank)
    except ConfigError as problem:
        raise EngineError(
            f"{engine_dir.path} was built from a model that this version does not know: {problem} Build it again."
        ) from problem


def _tokenizer_file(path: str | None, engine_dir: "EngineDir | None") -> Path:
    if path is not None:
        file = Path(path) / "tokenizer.json" if Path(path).is_dir() else Path(path)
        if not file.is_file():
            raise InputError(
                f"{file} does not exist; --tokenizer takes a tokenizer.json, or the folder with it."
            )
        return file
    if engine_dir is not None and engine_dir.tokenizer_path is not None:
        return engine_dir.tokenizer_path
    raise InputError(
        "the engine directory holds no tokenizer.json. Give --tokenizer with the model folder it was converted from."
    )


def _load_tokenizer(file: Path) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise EngineError("embed needs the package tokenizers. Install it: pip install tokenizers") from None
    try:
        return Tokenizer.from_file(str(file))
    except Exception as problem:  # the library raises bare Exception
        raise InputError(
            f"{file} is not a tokenizer that the package tokenizers reads: {problem}."
        ) from problem
