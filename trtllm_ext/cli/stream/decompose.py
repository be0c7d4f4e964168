"""Take the residual stream apart: what each part adds to it, and to what the model says, token by token.

Every embedding, sublayer and bias is followed to the end of the stream, through norms too, and they all add up to it:
that is checked on every run, within the rounding of the engine's types. Of an encoder the parts' effect on the pooled
vector is told; of a language model (--model_dir) the logit lens and each part's effect on chosen tokens' logits.
"""

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from trtllm_ext.cli.stream.options import (
    add_input_options,
    add_model_options,
    add_output_options,
    check_output,
    new_report,
    write_report,
)
from trtllm_ext.cli.terminal import paragraph, steps, table
from trtllm_ext.errors import ConfigError, InputError

if TYPE_CHECKING:
    from trtllm_ext.analysis.decomposition.direct_effects import Examined, Questions
    from trtllm_ext.analysis.decomposition.lens import Lens
    from trtllm_ext.checkpoint import ModelConfig


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    parser = commands.add_parser("decompose", help="what each sublayer adds to the stream and to the output")
    add_model_options(parser)
    add_input_options(parser)
    add_output_options(parser)
    lens = parser.add_argument_group("language models: what the stream says about the next token")
    source = lens.add_mutually_exclusive_group()
    source.add_argument(
        "--model_dir", metavar="DIR", help="Hugging Face folder whose final norm and unembedding are the lens"
    )
    source.add_argument(
        "--lens",
        metavar="FILE",
        help=".npz in its place: weight [vocab, hidden]; bias, norm_kind (layer_norm or rms_norm), norm_eps, "
        "norm_weight, norm_bias and scale where there are any",
    )
    chosen = lens.add_mutually_exclusive_group()
    chosen.add_argument(
        "--tokens",
        metavar="TEXTS",
        help="texts of one token each, with commas between (' Paris, Rome': the spaces count), whose logits are taken "
        "apart (default: each token's likeliest next one)",
    )
    chosen.add_argument("--token_ids", metavar="IDS", help="the same by their numbers, with commas between")
    lens.add_argument(
        "--top_k", type=int, default=5, metavar="N", help="tokens that the logit lens tells (default: 5)"
    )
    parser.add_argument(
        "--directions",
        metavar="FILE",
        help="for encoders: .npz with `directions` [directions, hidden], along which effects on the pooled vector are "
        "measured (default: the sentences' own unit vectors)",
    )
    return parser


def run(arguments: argparse.Namespace) -> int:
    from trtllm_ext.analysis.capture.captured_files import embeddings_file, read_labels
    from trtllm_ext.analysis.decomposition import examine
    from trtllm_ext.analysis.running.engines import tapped_engine, weights_of
    from trtllm_ext.analysis.running.running import check_source
    from trtllm_ext.cli.embed import read_sentences
    from trtllm_ext.cli.npz import read_npz

    check_output(arguments.output_dir)
    asked, texts = _questions(arguments)
    inputs = None if arguments.input is None else read_npz(arguments.input)
    sentences = None if arguments.sentences is None else read_sentences(arguments.sentences)
    labels = None if arguments.input is None else read_labels(arguments.input)
    embeddings = None
    if arguments.input is not None and embeddings_file(arguments.input).is_file():
        embeddings = read_npz(str(embeddings_file(arguments.input)))
    config = _config(arguments)
    check_source(config, of_sentences=sentences is not None)
    asked.check(config)
    with steps("decompose") as tell:
        tell("opening the engine", 0, 1)
        with tapped_engine(arguments.engine_dir, arguments.checkpoint_dir) as engine:
            weights = weights_of(engine, arguments.checkpoint_dir)
            found = examine(
                engine,
                weights,
                inputs,
                sentences=sentences,
                tokenizer=arguments.tokenizer,
                questions=asked,
                labels=labels,
                embeddings=embeddings,
                progress=tell,
            )
    _tell(found, texts)
    report = new_report(arguments, "What the residual stream is made of", _facts(arguments, found))
    found.show(report, texts)
    write_report(report, arguments)
    return 0


def _questions(arguments: argparse.Namespace) -> "tuple[Questions, Callable[[int], str]]":
    """What is asked of the output, and the texts of token ids."""
    from trtllm_ext.analysis.decomposition.direct_effects import Questions

    lens = _lens(arguments)
    if lens is None and (arguments.tokens is not None or arguments.token_ids is not None):
        raise ConfigError(
            "--tokens and --token_ids choose logits, and nothing says what these are. Give --model_dir with the "
            "language model, or --lens."
        )
    tokenizer = _tokenizer(arguments)
    targets: Sequence[int] = ()
    if arguments.token_ids is not None:
        targets = numbers(arguments.token_ids, "--token_ids")
    elif arguments.tokens is not None:
        from trtllm_ext.analysis.decomposition.lens import token_ids

        assert lens is not None
        if tokenizer is None:
            raise InputError(
                "--tokens needs a tokenizer, and there is none in --model_dir. Give --tokenizer with a tokenizer.json, "
                "or --token_ids."
            )
        targets = token_ids(arguments.tokens.split(","), tokenizer, lens.source)
    directions = None
    if arguments.directions is not None:
        from trtllm_ext.cli.npz import read_npz

        arrays = read_npz(arguments.directions)
        if "directions" not in arrays:
            raise InputError(
                f"{arguments.directions} holds {', '.join(arrays)}; expected an array `directions`."
            )
        directions = arrays["directions"]

    def text(number: int) -> str:
        piece = None if tokenizer is None else tokenizer.decode([number])
        return f"id {number}" if piece is None else piece

    return Questions(lens, tuple(targets), arguments.top_k, directions), text


def _lens(arguments: argparse.Namespace) -> "Lens | None":
    from trtllm_ext.analysis.decomposition.lens_sources import lens_of_arrays, lens_of_model

    if arguments.model_dir is not None:
        return lens_of_model(arguments.model_dir)
    if arguments.lens is not None:
        from trtllm_ext.cli.npz import read_npz

        return lens_of_arrays(arguments.lens, read_npz(arguments.lens))
    return None


def _tokenizer(arguments: argparse.Namespace) -> Any:
    """A tokenizer for the lens's vocabulary, where there is one to be had."""
    from pathlib import Path

    from trtllm_ext.errors import EngineError
    from trtllm_ext.models.sentence_encoder import load_tokenizer, tokenizer_file

    if arguments.model_dir is None and arguments.lens is None:
        return None
    place = arguments.tokenizer or arguments.model_dir
    if place is None or (arguments.tokenizer is None and not (Path(place) / "tokenizer.json").is_file()):
        return None
    try:
        return load_tokenizer(tokenizer_file(place, None))
    except EngineError:
        if arguments.tokens is not None or arguments.tokenizer is not None:
            raise
        return None  # ids do without texts


def numbers(text: str, flag: str) -> list[int]:
    """'5,17' -> [5, 17]. Raises InputError naming what is no number."""
    found = []
    for piece in text.split(","):
        if not piece.strip().isdecimal():
            raise InputError(
                f"{flag} has {piece!r}; expected whole numbers with commas between, such as 5,17."
            )
        found.append(int(piece))
    return found


def _config(arguments: argparse.Namespace) -> "ModelConfig":
    """The model's, before an engine is built or weights are read."""
    from trtllm_ext.analysis.running.running import check_taps
    from trtllm_ext.checkpoint import load_config

    if arguments.engine_dir is not None:
        return check_taps(arguments.engine_dir)
    return load_config(arguments.checkpoint_dir)


def _facts(arguments: argparse.Namespace, found: "Examined") -> dict[str, str]:
    run, config = found.result.run, found.result.run.config
    facts = {
        "model": config.source or config.architecture,
        "from": arguments.engine_dir or arguments.checkpoint_dir,
        "input": arguments.input or arguments.sentences,
        "tokens": str(run.num_tokens),
        "layers": str(config.num_hidden_layers),
        "hidden size": str(config.hidden_size),
        "types": f"{config.stream_dtype} stream, {config.dtype} model",
    }
    if found.lens is not None:
        facts["lens"] = found.lens.source
    return facts


def _tell(found: "Examined", texts: Callable[[int], str]) -> None:
    from trtllm_ext.analysis.decomposition.showing import sum_sentence, summary

    header, rows = summary(found.result)
    table(header, rows, right=range(1, len(header)))
    paragraph(sum_sentence(found.result))
    if found.top is not None:
        last = list(found.top.values())[-1]
        pairs = zip(last.ids[-1], last.probabilities[-1], strict=True)
        likely = ", ".join(f"{texts(int(number))!r} {part:.2f}" for number, part in pairs)
        paragraph(f"After the last token: {likely}.")
