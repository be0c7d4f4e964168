"""Write the same network with its residual stream in another basis: norms folded, a rotation folded in.

Nothing prefers one basis of the residual stream: norms' weights move into the matrices behind them, and an orthogonal
matrix into all that reads or writes the stream. The network computes what it did; outliers of single channels are
spread over all, which quantisation to int8 gains by. What a rotated network's inputs and outputs are is in
rotation.safetensors beside its weights. A form that is another network in a rotated basis is refused with the reason.
"""

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtllm_ext.cli.stream.options import check_output
from trtllm_ext.cli.terminal import human_bytes, paragraph, table
from trtllm_ext.errors import ConfigError

if TYPE_CHECKING:
    from trtllm_ext.analysis.progress import Progress
    from trtllm_ext.analysis.rotation import StreamTransform
    from trtllm_ext.analysis.rotation.comparison import Comparison


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    parser = commands.add_parser("rotate", help="the same network with its stream in another basis")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint_dir", metavar="DIR", help="what `trtllm-ext convert` wrote")
    source.add_argument(
        "--model_dir", metavar="DIR", help="a Hugging Face folder: embedding to head are rotated"
    )
    parser.add_argument("--output_dir", metavar="DIR", help="the checkpoint directory or folder to write")
    parser.add_argument(
        "--rotation",
        default="hadamard",
        metavar="KIND|FILE",
        help="hadamard (random signs and a Hadamard matrix), orthogonal (random), identity (norms are folded alone), "
        "or a .npy, .npz or .safetensors file with one orthogonal matrix (default: hadamard)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of random rotations (default: 0)")
    parser.add_argument(
        "--layer_norm",
        choices=("auto", "fold", "keep"),
        default="auto",
        help="fold: take the mean off the stream, LayerNorms become RMS norms; keep: they stay, and the rotation keeps "
        "the mean (default: auto, fold where all that reads the stream is behind a LayerNorm; a --model_dir keeps)",
    )
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "float16", "bfloat16"),
        default="auto",
        help="type of the weights written, rounded once from float64 (default: auto, the source's own)",
    )
    report = parser.add_argument_group("report of outliers and quantisation errors, original beside rotated")
    report.add_argument("--report_dir", metavar="DIR", help="where it goes (default: none is made)")
    report.add_argument(
        "--weights_only",
        action="store_true",
        help="write no weights: report what the rotation makes of each matrix by itself, of models too that cannot be "
        "rotated as a whole",
    )
    report.add_argument(
        "--input",
        metavar="FILE",
        help=".npz of inputs of the original, by name, as `stream capture` writes it: activations and sublayers are "
        "measured on it (default: weights alone)",
    )
    return parser


def run(arguments: argparse.Namespace) -> int:
    from trtllm_ext.cli.terminal import steps

    if arguments.report_dir is not None:
        check_output(arguments.report_dir)
    if arguments.weights_only:
        return _weights_only(arguments)
    _check(arguments)
    options: dict[str, Any] = {"rotation": arguments.rotation, "seed": arguments.seed}
    options["dtype"] = None if arguments.dtype == "auto" else arguments.dtype
    with steps("rotate") as tell:
        if arguments.model_dir is not None:
            transform = _rotate_folder(arguments, {**options, "progress": tell})
        else:
            transform = _rotate_checkpoint(arguments, {**options, "progress": tell})
    for name, text in _sentences(arguments, transform).items():
        paragraph(f"{name}: {text}", indent="  ")
    if arguments.report_dir is not None:
        _report(arguments)
    return 0


def _weights_only(arguments: argparse.Namespace) -> int:
    from trtllm_ext.analysis.rotation import chosen_rotation
    from trtllm_ext.analysis.rotation.comparison import compare_alone
    from trtllm_ext.analysis.stream_map import read_stream_map
    from trtllm_ext.cli.terminal import steps

    if arguments.report_dir is None or arguments.output_dir is not None or arguments.input is not None:
        raise ConfigError(
            "--weights_only writes a report and nothing else: give --report_dir, and no --output_dir or --input."
        )
    source = arguments.checkpoint_dir or arguments.model_dir
    with steps("rotate") as tell:
        found = read_stream_map(source)
        rotation = chosen_rotation(arguments.rotation, found.hidden_size, arguments.seed, keep_mean=False)
        compared = compare_alone(found, rotation.matrix, tell)
        _show(arguments, compared, {"source": source, "rotation": rotation.description}, tell)
    return 0


def _rotate_checkpoint(arguments: argparse.Namespace, options: dict[str, Any]) -> "StreamTransform":
    from trtllm_ext.analysis.rotation import rotate_checkpoint

    options["layer_norm"] = arguments.layer_norm
    found = rotate_checkpoint(arguments.checkpoint_dir, arguments.output_dir, **options)
    paragraph(f"{arguments.output_dir}: {human_bytes(found.num_bytes)} of weights, {found.config.dtype}")
    return found.transform


def _rotate_folder(arguments: argparse.Namespace, options: dict[str, Any]) -> "StreamTransform":
    from trtllm_ext.analysis.rotation import rotate_folder

    found = rotate_folder(arguments.model_dir, arguments.output_dir, **options)
    paragraph(f"{arguments.output_dir}: {human_bytes(found.num_bytes)} of weights")
    if found.untied:
        paragraph("The head, which had the embedding's weight, has one of its own now: lm_head.weight.")
    return found.transform


def _check(arguments: argparse.Namespace) -> None:
    """Refuse, before long work, what cannot end well."""
    given = arguments.checkpoint_dir or arguments.model_dir
    if arguments.output_dir is None:
        raise ConfigError("--output_dir is missing: where the rotated weights go (or give --weights_only).")
    output, source = Path(arguments.output_dir).resolve(), Path(given).resolve()
    if output == source:
        raise ConfigError(
            f"--output_dir {arguments.output_dir} is what is read, which it would replace. Give another."
        )
    if arguments.report_dir is not None and Path(arguments.report_dir).resolve() in (output, source):
        raise ConfigError(f"--report_dir {arguments.report_dir} is a directory of weights. Give another.")
    if arguments.model_dir is not None and arguments.layer_norm == "fold":
        raise ConfigError(
            "--layer_norm fold would need another architecture than the folder's; its LayerNorms are kept. Leave it "
            "out, or convert the model and give --checkpoint_dir."
        )
    if arguments.input is not None:
        _check_input(arguments)


def _check_input(arguments: argparse.Namespace) -> None:
    from trtllm_ext.analysis.rotation.walking import check_inputs
    from trtllm_ext.checkpoint import load_config
    from trtllm_ext.cli.npz import read_npz

    if arguments.report_dir is None:
        raise ConfigError("--input is what the report is measured on: give --report_dir too.")
    if arguments.model_dir is not None:
        raise ConfigError(
            "--input belongs to a stack: convert the folder (trtllm-ext convert) and give it as --checkpoint_dir. Of "
            "a --model_dir the report shows the weights."
        )
    check_inputs(load_config(arguments.checkpoint_dir), read_npz(arguments.input))


def _report(arguments: argparse.Namespace) -> None:
    from trtllm_ext.cli.terminal import steps

    with steps("compare") as tell:
        compared = _compared(arguments, tell)
        facts = _facts(arguments)
        if compared.difference is not None:
            facts["outputs differ by"] = f"{compared.difference:.3g} of the largest value"
        _show(arguments, compared, facts, tell)
    if compared.difference is not None:
        paragraph(
            f"The outputs differ by {compared.difference:.3g} of the largest value, weights as written."
        )


def _show(
    arguments: argparse.Namespace, compared: "Comparison", facts: dict[str, str], tell: "Progress"
) -> None:
    from trtllm_ext.analysis.report import Report
    from trtllm_ext.analysis.rotation.showing import show_sublayers, show_weights, summary

    command = shlex.join(["trtllm-ext", *arguments.argv])
    report = Report("A rotated residual stream", command=command, facts=facts)
    if compared.original.sublayers:
        show_sublayers(report, compared)
    show_weights(report, compared)
    directory = report.write(arguments.report_dir, tell)
    header, rows = summary(compared)
    table(header, rows, right=(1, 2))
    paragraph(f"{arguments.report_dir}: open {directory / 'report.html'}")


def _facts(arguments: argparse.Namespace) -> dict[str, str]:
    from trtllm_ext.analysis.rotation import load_transform

    facts = {"source": arguments.checkpoint_dir or arguments.model_dir}
    return facts | _sentences(arguments, load_transform(arguments.output_dir))


def _sentences(arguments: argparse.Namespace, transform: "StreamTransform") -> dict[str, str]:
    found = transform.sentences()
    if arguments.model_dir is None:
        return found
    same = "token ids in and logits out are what they were; the stream between is x @ rotation"
    if transform.gain is not None:
        same = f"token ids are what they were; last_hidden_state: {found['outputs']}"
    return {"rotation": found["rotation"], "model": same}


def _compared(arguments: argparse.Namespace, tell: "Progress") -> "Comparison":
    from trtllm_ext.analysis.rotation import load_transform
    from trtllm_ext.analysis.rotation.comparison import compare_on_input, compare_weights
    from trtllm_ext.analysis.stream_map import read_stream_map
    from trtllm_ext.cli.npz import read_npz

    source, output = arguments.checkpoint_dir or arguments.model_dir, arguments.output_dir
    compared = compare_weights(read_stream_map(source), read_stream_map(output), tell)
    if arguments.input is None:
        return compared
    inputs = read_npz(arguments.input)
    return compare_on_input(compared, source, output, load_transform(output), inputs, progress=tell)
