"""Run an engine as it is, and with one sublayer's contribution scaled, dropped or replaced, or a vector added.

The engine was built with --surgery, which gives its network inputs for that: nothing is built again. Names are those of
taps, or patterns, such as transformer.layers.3.mlp.contribution or '*.5.attention.contribution'. Contributions can be
scaled, dropped and replaced; --add is for them and for the stream before and after a sum. Changes are made in this
order: scale, drop, replace, add. What differs is told of every output and, where the engine has such taps, of the
stream after each sublayer.
"""

import argparse
from typing import TYPE_CHECKING, Any

from trtllm_ext.cli.stream.options import (
    add_input_options,
    add_output_options,
    check_output,
    new_report,
    write_report,
)
from trtllm_ext.cli.terminal import table
from trtllm_ext.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trtllm_ext.analysis.running.packing import Batch
    from trtllm_ext.analysis.steering.steered import Change
    from trtllm_ext.runtime import Session

_MEAN = "mean"


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    parser = commands.add_parser("steer", help="change the stream of a run, and see what differs")
    parser.add_argument(
        "--engine_dir", required=True, metavar="DIR", help="what `trtllm-ext build --surgery NAME ...` wrote"
    )
    add_input_options(parser)
    parser.add_argument(
        "--scale",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=NUMBER",
        help="multiply contributions",
    )
    parser.add_argument(
        "--drop", nargs="+", action="extend", default=[], metavar="NAME", help="have contributions be 0"
    )
    parser.add_argument(
        "--replace",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=FILE",
        help="put the numbers of a .npy file in the place of contributions: [hidden] for all tokens, or [tokens, "
        "hidden] for each token of the input; 'mean' in place of a file is the contribution's own mean over the "
        "tokens, which takes an engine with a tap of it (mean ablation)",
    )
    parser.add_argument(
        "--add",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=FILE",
        help="add the numbers of a .npy file, of such shapes, to contributions or to the stream",
    )
    add_output_options(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    from contextlib import closing

    from trtllm_ext.analysis.steering.showing import show
    from trtllm_ext.analysis.steering.steered import steer
    from trtllm_ext.builder.taps import taps_from_json
    from trtllm_ext.cli.terminal import steps
    from trtllm_ext.errors import EngineError
    from trtllm_ext.runtime import EngineDir, Session

    check_output(arguments.output_dir)
    changes = _changes(arguments)
    size = EngineDir.read(arguments.engine_dir, 0).envelope.world_size
    if size != 1:
        raise EngineError(
            f"{arguments.engine_dir} is an engine of {size} ranks, and this command runs engines of one. In Python, "
            "give the inputs of analysis.steering.Surgery to the session of every rank."
        )
    with closing(Session.from_engine_dir(arguments.engine_dir, 0)) as session, steps("steer") as tell:
        batches = _batches(session, arguments)
        found = steer(session, batches, changes, tell)
        assert session.engine_dir is not None
        taps = taps_from_json(session.engine_dir.config.get("taps", {}))
    outputs = [each for each in found.differences() if each.of not in taps]
    table(
        ["output", "largest", "relative", "cosine"],
        [[each.of, f"{each.largest:.3g}", f"{each.relative:.3g}", f"{each.cosine:.4f}"] for each in outputs],
        (1, 2, 3),
    )
    facts = {
        "engine": str(arguments.engine_dir),
        **{f"change {i}": text for i, text in enumerate(_told(changes), 1)},
    }
    report = new_report(arguments, "A changed residual stream", facts)
    show(report, found, taps, batches)
    write_report(report, arguments)
    return 0


def _changes(arguments: argparse.Namespace) -> "list[Change]":
    """Of the flags; refused are those that say nothing, and files that hold no numbers."""
    import numpy as np

    from trtllm_ext.analysis.steering.steered import Change

    changes = []
    for text in arguments.scale:
        name, value = _pair("scale", text, "NUMBER")
        try:
            changes.append(Change("scale", name, np.array(float(value))))
        except ValueError:
            raise InputError(f"--scale {text}: {value!r} is no number.") from None
    changes += [Change("drop", name) for name in arguments.drop]
    for text in arguments.replace:
        name, path = _pair("replace", text, "FILE")
        changes.append(Change("replace", name, None if path == _MEAN else _numbers("replace", text, path)))
    for text in arguments.add:
        name, path = _pair("add", text, "FILE")
        changes.append(Change("add", name, _numbers("add", text, path)))
    if not changes:
        raise InputError("nothing is to be changed. Give --scale, --drop, --replace or --add.")
    return changes


def _pair(flag: str, text: str, what: str) -> tuple[str, str]:
    name, is_there, value = text.partition("=")
    if not (name and is_there and value):
        raise InputError(f"--{flag} {text} is not NAME={what}.")
    return name, value


def _numbers(flag: str, text: str, path: str) -> Any:
    import numpy as np

    from trtllm_ext.cli.options import check_input

    check_input(path, "a .npy file of numbers")
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as problem:
        raise InputError(f"--{flag} {text}: {path} is not a .npy file of numbers ({problem}).") from problem
    if not isinstance(values, np.ndarray) or values.ndim < 1 or values.dtype.kind not in "iuf":
        raise InputError(
            f"--{flag} {text}: {path} holds no array of real numbers. Write one with numpy.save(file, array)."
        )
    return values


def _batches(session: "Session", arguments: argparse.Namespace) -> "Sequence[Batch]":
    from trtllm_ext.analysis.running.packing import batches_of_ids, batches_of_sentences, batches_of_tokens
    from trtllm_ext.checkpoint import ModelConfig
    from trtllm_ext.cli.npz import read_npz

    if arguments.sentences is not None:
        from trtllm_ext.cli.embed import read_sentences

        return batches_of_sentences(session, read_sentences(arguments.sentences), arguments.tokenizer)
    inputs = read_npz(arguments.input)
    assert session.engine_dir is not None
    config = ModelConfig.from_dict(session.engine_dir.config["pretrained_config"])
    if config.contract.embedding is not None:
        return batches_of_ids(session, inputs, config, arguments.tokenizer)
    return batches_of_tokens(session, inputs)


def _told(changes: "Sequence[Change]") -> list[str]:
    texts = []
    for change in changes:
        if change.verb == "scale":
            texts.append(f"scale {change.name} by {float(change.values):g}")  # type: ignore[arg-type]
        elif change.values is None:
            texts.append(
                f"{change.verb} {change.name}" + (" by its mean" if change.verb == "replace" else "")
            )
        else:
            texts.append(f"{change.verb} {change.name}: values of shape {change.values.shape}")
    return texts
