"""Sentences to vectors with a session of an encoder engine."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtllm_ext.errors import ConfigError, EngineError, InputError

if TYPE_CHECKING:
    import numpy as np

    from trtllm_ext.checkpoint import ModelConfig
    from trtllm_ext.runtime import EngineDir, LeadingSession, Session

OUTPUT = "sentence_embedding"
# As many tokens, padding included, run together at most: an engine's largest batch of its longest sentences can ask for
# more memory than a machine has.
MOST_TOKENS = 8192
# So many tokens of padding are cheaper than a run of their own on a GPU; a processor would have less.
_LEAST_PADDING = 128


class SentenceEncoder:
    """Sentences to vectors: tokenizer, batches within the engine's profile, and the engine.

    session: of an engine directory. tokenizer: a tokenizer.json or a folder with it; by default the engine's own.
    max_length: the tokens that a sentence is cut to, and bound: what says so, the model or the engine.
    hidden_size: the length of a vector.
    Several threads may call it at once: they make tokens beside one another, and take turns with the session.
    Raises EngineError for an engine that is not an encoder's, InputError for a tokenizer that cannot be read.
    """

    def __init__(self, session: "Session | LeadingSession", tokenizer: str | None = None) -> None:
        inputs = {info.name: info for info in session.inputs}
        outputs = {info.name: info for info in session.outputs}
        if "input_ids" not in inputs or OUTPUT not in outputs:
            raise EngineError(
                f"this engine takes {', '.join(inputs)} and gives {', '.join(outputs)}; sentences need an encoder "
                f"with input_ids and {OUTPUT}. `trtllm-ext run` runs any engine."
            )
        self._session = session
        self.hidden_size: int = outputs[OUTPUT].shape[-1]
        self._names = tuple(name for name in inputs if name not in session.input_defaults)
        (self._least, _, self._most) = session.profiles("input_ids")[0]
        config = _model_config(session.engine_dir)
        self._vocab_size = config.vocab_size or 0
        self._num_types = config.type_vocab_size or 0
        self._tokenizer_file = tokenizer_file(tokenizer, session.engine_dir)
        self._tokenizer = load_tokenizer(self._tokenizer_file)
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
        # Once for all calls, which then share a tokenizer that none of them changes.
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(self.max_length)

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
            vectors = self._session.run(self.arrays([tokens[index] for index in batch]))[OUTPUT]
            rows.update(zip(batch, vectors.astype(np.float32), strict=False))
        return np.stack([rows[index] for index in range(len(tokens))])

    def tokenize(self, sentences: list[str]) -> list[Any]:
        """Each sentence's tokens, cut to `max_length` (`was_cut` says whether). Raises as `encode` does."""
        tokens = list(self._tokenizer.encode_batch(sentences))
        for number, each in enumerate(tokens, 1):
            highest = max(each.ids, default=0)
            if highest >= self._vocab_size:
                raise InputError(
                    f"sentence {number} has the token id {highest}; this engine's vocabulary has the ids 0 to "
                    f"{self._vocab_size - 1}. {self._tokenizer_file} belongs to another model; give --tokenizer with "
                    f"the folder that this one was converted from."
                )
        return tokens

    def arrays(self, batch: list[Any]) -> "dict[str, np.ndarray[Any, Any]]":
        """The engine's inputs for what `tokenize` gave of at most a run's sentences, int32 [sentences, tokens].

        Zeros are padding. Rows beyond the batch only fill it up to the engine's least size.
        """
        import numpy as np

        rows = max(len(batch), self._least[0])
        length = max(self._least[1], *(len(each.ids) for each in batch))
        parts = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
        arrays = {}
        for name in self._names:
            if name not in parts:
                raise EngineError(
                    f"nothing is known to give for the engine's input {name!r}; sentences are {', '.join(parts)}."
                )
            array = np.zeros((rows, length), np.int32)  # the mask hides padding, so any valid id does
            arrays[name] = array
            if name == "token_type_ids" and self._num_types == 1:
                continue  # tokenizers of such models may count types that the model was trained without
            for row in range(rows):
                values = getattr(batch[min(row, len(batch) - 1)], parts[name])
                array[row, : len(values)] = values
        return arrays


def was_cut(tokens: Any) -> bool:
    """Whether the sentence that `tokenize` made these of was longer than `max_length`."""
    return bool(tokens.overflowing)


def batches(lengths: list[int], most_rows: int) -> Iterator[list[int]]:
    """Indices of sentences to run together: at most `most_rows`, and `MOST_TOKENS` padding included.

    Neighbours of similar length waste the least on padding; where it would be more than half of the tokens, and more
    than another run costs, there is another batch. What else limits a batch is memory: an engine's largest batch of its
    longest sentences can ask for more than a machine has.
    """
    batch: list[int] = []
    tokens = 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        length = lengths[index]
        padding, padded = len(batch) * length - tokens, (len(batch) + 1) * length
        is_wasted = padding > max(_LEAST_PADDING, (tokens + length) // 2)
        if batch and (len(batch) == most_rows or padded > MOST_TOKENS or is_wasted):
            yield batch
            batch, tokens = [], 0
        batch.append(index)
        tokens += length
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


def tokenizer_file(path: str | None, engine_dir: "EngineDir | None") -> Path:
    """A tokenizer.json: at the path given (a file or its folder), or the engine's. InputError where there is none."""
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


def load_tokenizer(file: Path) -> Any:
    """A `tokenizers.Tokenizer`. EngineError without that package, InputError for a file that it does not read."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise EngineError(
            "sentences need the package tokenizers. Install it: pip install tokenizers"
        ) from None
    try:
        return Tokenizer.from_file(str(file))
    except Exception as problem:  # the library raises bare Exception
        raise InputError(
            f"{file} is not a tokenizer that the package tokenizers reads: {problem}."
        ) from problem
