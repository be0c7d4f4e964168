"""What `stream spectrum` and `stream neurons` look at: a model's matrices, input through an engine of it, or both."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trtllm_ext.cli.stream.options import add_input_options
from trtllm_ext.errors import ConfigError

if TYPE_CHECKING:
    from trtllm_ext.analysis.running.stream_pieces import StreamPieces
    from trtllm_ext.analysis.stream_map import StreamMap
    from trtllm_ext.checkpoint.lazy import LazyCheckpoint


@dataclass(frozen=True)
class Sources:
    """stream_map: of --checkpoint_dir or --model_dir. checkpoint, pieces: where there is input."""

    stream_map: "StreamMap | None"
    checkpoint: "LazyCheckpoint | None"
    pieces: "StreamPieces | None"

    @property
    def facts(self) -> dict[str, str]:
        facts = {}
        if self.stream_map is not None:
            facts["model"] = f"{self.stream_map.architecture}, {self.stream_map.source}"
            facts["layers"] = str(self.stream_map.num_layers)
            facts["hidden size"] = str(self.stream_map.hidden_size)
        elif self.pieces is not None:
            facts["engine"] = str(self.pieces.engine_dir)
            facts["layers"] = str(self.pieces.config.num_hidden_layers)
            facts["hidden size"] = str(self.pieces.config.hidden_size)
        if self.pieces is not None:
            facts["type"] = self.pieces.config.dtype
        return facts


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """--checkpoint_dir or --model_dir, --engine_dir, and input that may be left out."""
    model = parser.add_mutually_exclusive_group()
    model.add_argument(
        "--checkpoint_dir", metavar="DIR", help="what `trtllm-ext convert` wrote, of any number of ranks"
    )
    model.add_argument(
        "--model_dir",
        metavar="DIR",
        help="a Hugging Face model's folder, for its matrices alone; convert it to run input through it",
    )
    parser.add_argument(
        "--engine_dir",
        metavar="DIR",
        help="what `trtllm-ext build --taps '*'` wrote, to run the input (default: an engine is built of the "
        "checkpoint for this command alone)",
    )
    add_input_options(parser, required=False)


@contextmanager
def opened(arguments: argparse.Namespace) -> Iterator[Sources]:
    """What the arguments name, checked. An engine that is built for the occasion is gone afterwards.

    Raises ConfigError for arguments that do not go together and for an engine of another model, and as reading,
    building and `StreamPieces` do.
    """
    from trtllm_ext.analysis.stream_map import read_stream_map

    _check(arguments)
    path = arguments.checkpoint_dir or arguments.model_dir
    stream_map = None if path is None else read_stream_map(path)
    if arguments.sentences is None and arguments.input is None:
        yield Sources(stream_map, None, None)
        return
    from trtllm_ext.analysis.running.engines import tapped_engine
    from trtllm_ext.analysis.running.stream_pieces import StreamPieces
    from trtllm_ext.builder.same_model import check_same_model
    from trtllm_ext.checkpoint.lazy import LazyCheckpoint

    given = given_input(arguments)
    checkpoint = None if arguments.checkpoint_dir is None else LazyCheckpoint(arguments.checkpoint_dir)
    built_of = None if arguments.engine_dir else arguments.checkpoint_dir
    with tapped_engine(arguments.engine_dir, built_of) as engine:
        pieces = StreamPieces(engine, **given)
        if checkpoint is not None and arguments.engine_dir is not None:
            check_same_model(
                pieces.config.to_dict(),
                checkpoint.config,
                engine=arguments.engine_dir,
                checkpoint=arguments.checkpoint_dir,
                way_out="Give the checkpoint that it was built from.",
            )
        yield Sources(stream_map, checkpoint, pieces)


def _check(arguments: argparse.Namespace) -> None:
    has_input = arguments.sentences is not None or arguments.input is not None
    if arguments.checkpoint_dir is None and arguments.model_dir is None and arguments.engine_dir is None:
        raise ConfigError(
            "nothing to look at: give --checkpoint_dir, --model_dir, or --engine_dir with input."
        )
    if arguments.model_dir is not None and (has_input or arguments.engine_dir is not None):
        raise ConfigError(
            "--model_dir is for the matrices alone. To run input, convert the model (trtllm-ext convert --model_dir "
            f"{arguments.model_dir} --output_dir CHECKPOINT) and give --checkpoint_dir CHECKPOINT."
        )
    if arguments.engine_dir is not None and not has_input:
        raise ConfigError("--engine_dir runs input: give --sentences FILE or --input FILE.npz with it.")


def given_input(arguments: argparse.Namespace) -> dict[str, Any]:
    """Arguments of StreamPieces."""
    if arguments.sentences is not None:
        from trtllm_ext.cli.embed import read_sentences

        return {"sentences": read_sentences(arguments.sentences), "tokenizer": arguments.tokenizer}
    from trtllm_ext.analysis.capture.captured_files import read_labels
    from trtllm_ext.cli.npz import read_npz

    return {
        "inputs": read_npz(arguments.input),
        "tokenizer": arguments.tokenizer,
        "labels": read_labels(arguments.input),
    }
