"""Run a Hugging Face language model on text, and write down its residual stream as a stack's engine takes it.

What is written is hidden_states, the stream before the first layer, and attention_output, what each layer's attention
adds to it: the inputs of an engine whose checkpoint was converted with --attention_input. With them `stream decompose`
takes the whole model's stream apart. The engine's stream is compared with the model's own at its end before anything is
written. The model runs in float32 on the CPU, with torch and transformers (pip install 'trtllm-ext[hf,torch]').
"""

import argparse
from typing import Any

from trtllm_ext.cli.stream.decompose import numbers
from trtllm_ext.cli.terminal import paragraph, steps
from trtllm_ext.errors import InputError


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    parser = commands.add_parser("capture", help="a stack's inputs from a transformers model and text")
    parser.add_argument(
        "--model_dir",
        required=True,
        metavar="DIR",
        help="folder with config.json, weights and tokenizer.json",
    )
    text = parser.add_mutually_exclusive_group(required=True)
    text.add_argument("--text", metavar="TEXT", help="what the model reads")
    text.add_argument(
        "--sentences", metavar="FILE", help="text file, one text a line, each read by itself; - for stdin"
    )
    text.add_argument("--token_ids", metavar="IDS", help="in place of text: token ids, with commas between")
    parser.add_argument(
        "--output",
        required=True,
        metavar="FILE",
        help=".npz file to write; beside it a .json of the same name gets the tokens' texts, and .embeddings.npz the "
        "tables' rows where the stream begins as a sum of several",
    )
    parser.add_argument(
        "--engine_dir",
        metavar="DIR",
        help="the stack's engine that the stream is compared with (default: the model is converted and an engine built "
        "for that alone, up to 1 GiB of weights)",
    )
    return parser


def run(arguments: argparse.Namespace) -> int:
    from trtllm_ext.analysis.capture.capture import can_check, capture, check_against_engine
    from trtllm_ext.analysis.capture.captured_files import embeddings_file, labels_file, write_labels
    from trtllm_ext.cli.npz import check_output, write_npz

    check_output(arguments.output, arguments.sentences)
    if not arguments.output.endswith(".npz"):
        raise InputError(
            f"--output {arguments.output} is no .npz file; its name tells what it holds. Add .npz."
        )
    ids, labels = _texts(arguments)
    with steps("capture") as tell:
        captured = capture(arguments.model_dir, ids, progress=tell)
        away = None
        if arguments.engine_dir is not None or can_check(arguments.model_dir):
            tell("comparing with the engine", 0, 1)
            away = check_against_engine(
                captured, model_dir=arguments.model_dir, engine_dir=arguments.engine_dir
            )
    write_npz(arguments.output, captured.inputs())
    facts = {"model_dir": arguments.model_dir, "starts": list(captured.starts), "ids": captured.ids.tolist()}
    write_labels(arguments.output, labels, facts)
    embeddings_file(arguments.output).unlink(missing_ok=True)
    if captured.embeddings:
        write_npz(str(embeddings_file(arguments.output)), captured.embeddings)
    for name, value in captured.inputs().items():
        paragraph(f"{arguments.output}: {name} {value.dtype} {value.shape}")
    paragraph(f"{labels_file(arguments.output)}: {len(labels)} tokens")
    if captured.embeddings:
        paragraph(f"{embeddings_file(arguments.output)}: {', '.join(captured.embeddings)}")
    if away is None:
        paragraph(
            "Not compared with an engine: the weights are more than 1 GiB. Convert with --attention_input, build, and "
            "give --engine_dir."
        )
    else:
        paragraph(f"The engine's stream ends within {away:.2g} of the model's, of its largest value.")
    return 0


def _texts(arguments: argparse.Namespace) -> tuple[list[list[int]], list[str]]:
    """Token ids of each text, and a label for each token of all."""
    from trtllm_ext.cli.embed import read_sentences
    from trtllm_ext.models.sentence_encoder import load_tokenizer, tokenizer_file

    if arguments.token_ids is not None:
        ids = numbers(arguments.token_ids, "--token_ids")
        return [ids], [f"id {number}" for number in ids]
    texts = [arguments.text] if arguments.text is not None else read_sentences(arguments.sentences)
    tokenizer: Any = load_tokenizer(tokenizer_file(arguments.model_dir, None))
    coded = [tokenizer.encode(text).ids for text in texts]
    return coded, [tokenizer.decode([number], skip_special_tokens=False) for text in coded for number in text]
