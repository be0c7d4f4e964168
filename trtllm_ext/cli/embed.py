"""Turn sentences into vectors with an encoder engine, and show how similar they are.

One sentence a line; blank lines are skipped. Sentences are batched within the engine's limits and come out in
the order they came in. Those longer than the model or the engine allows are cut, and said to be.

An engine of N ranks runs as N processes: with --nproc N here, or with mpirun -n N trtllm-ext embed ....
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtllm_ext.cli.options import add_session_options, check_input, open_session
from trtllm_ext.cli.ranks import is_first, on_all, on_ranks
from trtllm_ext.cli.terminal import table
from trtllm_ext.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from trtllm_ext.parallel import Communicator

_MOST_IN_MATRIX = 12


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    parser = commands.add_parser("embed", help="sentences to vectors and a table of similarities")
    add_session_options(parser)
    parser.add_argument(
        "--sentences", required=True, metavar="FILE", help="text file, one sentence a line; - for stdin"
    )
    parser.add_argument(
        "--tokenizer",
        metavar="PATH",
        help="tokenizer.json or a folder with it (default: the one beside the engine)",
    )
    parser.add_argument(
        "--output", metavar="FILE", help=".npz file to write the vectors to, as 'sentence_embedding'"
    )
    return parser


def run(arguments: argparse.Namespace) -> int:
    return on_ranks(arguments, lambda world: _run(arguments, world))


def _run(arguments: argparse.Namespace, world: "Communicator | None") -> int:
    from trtllm_ext.cli.npz import check_output, write_npz
    from trtllm_ext.models.sentence_encoder import OUTPUT, SentenceEncoder, was_cut

    def read() -> list[str]:
        if not is_first(world):  # launchers give stdin to rank 0 alone
            return []
        if arguments.output:
            source = None if arguments.sentences == "-" else arguments.sentences
            check_output(arguments.output, source, arguments.tokenizer)
        return read_sentences(arguments.sentences)

    _, told = on_all(world, read, lambda sentences: sentences, f"reading {arguments.sentences}")
    sentences: list[str] = told[0]
    with open_session(arguments, world) as session:
        encoder, _ = on_all(
            world, lambda: SentenceEncoder(session, arguments.tokenizer), what="reading the tokenizer"
        )
        tokens, digests = on_all(world, lambda: encoder.tokenize(sentences), _digest, "making tokens")
        _check_same_tokens(digests)
        vectors = encoder.encode_tokens(tokens)
    on_all(world, lambda: None)  # nothing is written before all ranks have ended well
    if arguments.output:
        write = (
            (lambda: write_npz(arguments.output, {OUTPUT: vectors})) if is_first(world) else (lambda: None)
        )
        on_all(world, write, what=f"writing {arguments.output}")
    if not is_first(world):
        return 0
    if num_cut := sum(map(was_cut, tokens)):
        print(
            f"{num_cut} of {len(sentences)} sentences were cut to {encoder.max_length} tokens, {encoder.bound}",
            file=sys.stderr,
        )
    _print_similarities(sentences, vectors)
    if arguments.output:
        print(f"{arguments.output}: {len(sentences)} vectors of {vectors.shape[1]}")
    return 0


def _digest(tokens: list[Any]) -> str:
    import hashlib

    return hashlib.sha256(repr([each.ids for each in tokens]).encode()).hexdigest()


def _check_same_tokens(digests: list[str]) -> None:
    """Raise InputError on all ranks unless their tokenizers agree."""
    from trtllm_ext.parallel.ordered_sum import ranks_text

    if others := [rank for rank, digest in enumerate(digests) if digest != digests[0]]:
        raise InputError(
            f"{ranks_text(others)} made other tokens of the sentences than rank 0: their tokenizers differ. Copy one "
            f"tokenizer.json to all hosts."
        )


def read_sentences(path: str) -> list[str]:
    """The sentences of a text file, one a line; "-" is stdin. Raises InputError."""
    name = "stdin" if path == "-" else path
    if path != "-":
        check_input(path, "a text file, one sentence a line")
    try:
        # The -sig form leaves out the mark that some editors put at the start of a file.
        text = (sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()).decode("utf-8-sig")
    except OSError as problem:
        raise InputError(f"{name} cannot be read: {(problem.strerror or str(problem)).lower()}.") from problem
    except UnicodeDecodeError as problem:
        raise InputError(f"{name} is not UTF-8 text: {problem}.") from problem
    sentences = [line.strip() for line in text.split("\n") if line.strip()]
    if not sentences:
        raise InputError(f"{name} holds no sentence; expected one a line.")
    return sentences


def _print_similarities(sentences: list[str], vectors: "np.ndarray[Any, Any]") -> None:
    import numpy as np

    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.maximum(norms, np.finfo(np.float32).tiny)
    cosine = unit @ unit.T
    if len(sentences) <= _MOST_IN_MATRIX:
        header = ["", *(str(index + 1) for index in range(len(sentences))), "sentence"]
        rows = [
            [str(index + 1), *(f"{value:.2f}" for value in cosine[index]), _short(sentence)]
            for index, sentence in enumerate(sentences)
        ]
        print("cosine similarity")
        table(header, rows, right=range(len(sentences) + 1))
        return
    first, second = np.triu_indices(len(sentences), 1)
    best = np.argsort(-cosine[first, second], kind="stable")[:_MOST_IN_MATRIX]
    print(f"the {len(best)} most similar pairs of {len(sentences)} sentences")
    pairs = [(int(first[index]), int(second[index])) for index in best]
    table(
        ["cosine", "sentence", "and"],
        [[f"{cosine[a, b]:.3f}", _short(sentences[a]), _short(sentences[b])] for a, b in pairs],
        right=[0],
    )


def _short(text: str, most: int = 60) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
