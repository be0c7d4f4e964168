"""Sentences in, vectors out: an encoder served with its tokenizer."""

import logging

import numpy as np

from trtllm_ext.errors import InputError
from trtllm_ext.models.sentence_encoder import OUTPUT, SentenceEncoder, was_cut
from trtllm_ext.runtime import LeadingSession, Session
from trtllm_ext.serve.joining import Arrays, Extent, Joining
from trtllm_ext.serve.runner import Runner, TensorSpec
from trtllm_ext.serve.session_runner import description_of

logger = logging.getLogger(__name__)

INPUT = "text"
IS_CUT = "is_cut"
# Making tokens takes a second for a megabyte, while which others wait, and a model reads some hundred tokens of a
# sentence.
MOST_SENTENCES = 1024
MOST_BYTES = 32 << 10
MOST_REQUEST_BYTES = 2 << 20


class TextRunner(Runner):
    """Runs an encoder on sentences: BYTES [n] of UTF-8 -> FP32 [n, hidden], and BOOL [n], whether it was cut.

    Sentences of requests that run together are batched by their lengths, as those of one request are; a request may
    hold more of them than the engine runs at once.
    Raises EngineError for an engine that is no encoder, InputError for a tokenizer that cannot be read.
    """

    def __init__(self, session: Session | LeadingSession, tokenizer: str | None = None) -> None:
        self._encoder = SentenceEncoder(session, tokenizer)
        (least, _, most) = session.profiles("input_ids")[0]
        vectors = TensorSpec(name=OUTPUT, datatype="FP32", shape=(-1, self._encoder.hidden_size))
        super().__init__(
            inputs=(TensorSpec(name=INPUT, datatype="BYTES", shape=(-1,), check_shape=_check_count),),
            outputs=(vectors, TensorSpec(name=IS_CUT, datatype="BOOL", shape=(-1,))),
            joining=Joining(
                inputs={INPUT: 0},
                outputs={OUTPUT: 0, IS_CUT: 0},
                limits=[(Extent(1), Extent(max(least[0], most[0])))],
            ),
            description={**description_of(session), "max_tokens": str(self._encoder.max_length)},
        )
        self._session = session

    def check(self, arrays: Arrays) -> None:
        sentences = arrays[INPUT]
        _check_count(sentences.shape)
        if (size := sum(map(len, sentences))) > MOST_REQUEST_BYTES:
            raise InputError(
                f"input {INPUT!r} has {size} bytes; a request has at most {MOST_REQUEST_BYTES}. Send it in parts."
            )
        for number, sentence in enumerate(sentences, 1):
            if len(sentence) > MOST_BYTES:
                raise InputError(
                    f"sentence {number} has {len(sentence)} bytes; at most {MOST_BYTES} are taken, of which the model "
                    f"reads {self._encoder.max_length} tokens. Cut it, or split it."
                )
            try:
                sentence.decode()
            except UnicodeDecodeError as problem:
                raise InputError(
                    f"sentence {number} is not UTF-8: byte {problem.start} is 0x{sentence[problem.start]:02x}."
                ) from None

    def run(self, arrays: Arrays) -> Arrays:
        try:
            tokens = self._encoder.tokenize([sentence.decode() for sentence in arrays[INPUT]])
        except InputError as problem:  # says where the tokenizer lies
            logger.error("%s", problem)
            raise InputError(
                "a sentence has a token that this model has no embedding for: the server's tokenizer is of another one."
            ) from problem
        return {
            OUTPUT: self._encoder.encode_tokens(tokens),
            IS_CUT: np.array([was_cut(each) for each in tokens]),
        }

    def close(self) -> None:
        self._session.close()


def _check_count(shape: tuple[int, ...]) -> None:
    if not 1 <= shape[0] <= MOST_SENTENCES:
        raise InputError(f"input {INPUT!r} holds {shape[0]} sentences; a request has 1 to {MOST_SENTENCES}.")
