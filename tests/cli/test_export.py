"""`trtllm-ext export --onnx`: the file, what is told of it, and what is refused."""

import importlib
import re
import shlex
from pathlib import Path

import onnx
import pytest

import trtllm_ext as tx
from trtllm_ext.cli import main as cli
from trtllm_ext.models import sublayer_stack_config, write_random_checkpoint

BUDGET_S = 3

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "c"
    config = sublayer_stack_config(hidden_size=16, ffn_hidden_size=32, num_hidden_layers=2)
    write_random_checkpoint(path, config)
    return str(path)


def export(*arguments):
    return cli.main(["export", *map(str, arguments)])


def test_the_file_and_how_trtexec_takes_it(checkpoint, tmp_path, capsys):
    path = tmp_path / "m.onnx"
    sizes = ("--max_num_tokens", 32, "--opt_num_tokens", 8)
    assert export("--checkpoint_dir", checkpoint, "--onnx", path, *sizes, "--taps", "*.contribution") == 0
    told = capsys.readouterr().out
    shapes = "--minShapes=hidden_states:1x16 --optShapes=hidden_states:8x16 --maxShapes=hidden_states:32x16"
    assert f"trtexec --onnx={path} {shapes}" in told
    model = onnx.load(path)
    assert f"opset {model.opset_import[0].version}, {len(model.graph.node)} nodes" in told
    assert [each.name for each in model.graph.output] == [
        "hidden_states_out",
        "transformer.layers.0.mlp.contribution",
        "transformer.layers.1.mlp.contribution",
    ]


def test_weights_beside(checkpoint, tmp_path, capsys):
    assert export("--checkpoint_dir", checkpoint, "--onnx", tmp_path / "m.onnx", "--external_data") == 0
    assert f"in {tmp_path / 'm.onnx.data'}" in capsys.readouterr().out


def test_of_an_engine(checkpoint, tmp_path, capsys):
    tx.build_engine_dir(checkpoint, tmp_path / "e", tx.BuildConfig(max_num_tokens=16))
    arguments = (
        "--checkpoint_dir",
        checkpoint,
        "--engine_dir",
        tmp_path / "e",
        "--onnx",
        tmp_path / "m.onnx",
    )
    assert export(*arguments) == 0
    assert "--maxShapes=hidden_states:16x16" in capsys.readouterr().out
    assert export(*arguments, "--max_num_tokens", 8) == 1
    assert (
        "--max_num_tokens says how the network is built, and so does --engine_dir" in capsys.readouterr().err
    )


def test_the_page_on_export_names_what_is_there(checkpoint, tmp_path, monkeypatch, capsys):
    text = (Path(__file__).parents[2] / "docs" / "export.md").read_text()
    command = re.search(r"trtllm-ext (export .*)", text)[1].replace("CKPT", checkpoint)
    monkeypatch.chdir(tmp_path)
    assert cli.main(shlex.split(command)) == 0
    options = cli.make_parser()._subparsers._group_actions[0].choices["export"]._option_string_actions
    ours = set(re.findall(r"`(--\w+)", text)) - {"--fp16"}
    assert ours and ours <= set(options)
    named = {}
    for name in re.findall(r"`(?:trtllm_ext\.)?((?:oracle|builder|graph\.known|lowering)\.\w+)", text):
        module, member = name.rsplit(".", 1)
        named[name] = getattr(importlib.import_module(f"trtllm_ext.{module}"), member)
    assert {"oracle.opaque_layers", "graph.known.known_of", "builder.export_onnx"} <= set(named)


def test_into_a_triton_repository(checkpoint, tmp_path, monkeypatch, capsys):
    tx.build_engine_dir(checkpoint, tmp_path / "ffn", tx.BuildConfig(max_num_tokens=16))
    monkeypatch.chdir(tmp_path)
    assert export("--engine_dir", "ffn", "--checkpoint_dir", checkpoint, "--triton", "models") == 0
    told = capsys.readouterr().out
    assert "models/ffn/1/model.onnx: version 1 of the model ffn" in told
    assert "Requests are joined along num_tokens" in told and "A batch has 16 rows at most." in told
    assert "\n  tritonserver --model-repository=models\n" in told
    Path("models/ffn/config.pbtxt").write_text("# mine")
    again = ("--engine_dir", "ffn", "--checkpoint_dir", checkpoint, "--triton", "models", "--external_data")
    assert export(*again) == 1
    assert "--existing_config keep leaves the file as it is" in capsys.readouterr().err
    assert export(*again, "--existing_config", "keep") == 0
    assert "models/ffn/config.pbtxt is as it was" in capsys.readouterr().out
    assert sorted(path.name for path in Path("models/ffn/2").iterdir()) == ["model.onnx", "model.onnx.data"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--onnx", "m.onnx"], 2, "the following arguments are required: --checkpoint_dir"),
        (
            ["--onnx", "m.onnx", "--checkpoint_dir", "c", "--model_name", "m"],
            2,
            "--model_name is for --triton",
        ),
        (
            ["--triton", "models", "--checkpoint_dir", "c"],
            2,
            "the following arguments are required: --engine_dir",
        ),
        (
            ["--triton", "models", "--engine_dir", "e", "--max_num_tokens", "4"],
            1,
            "writes the engine of --engine_dir",
        ),
        (["--triton", "models", "--onnx", "m.onnx"], 2, "not allowed with argument"),
        (["--checkpoint_dir", "c"], 2, "one of the arguments --onnx --triton is required"),
    ],
)
def test_flags_that_do_not_go_together(arguments, code, message, capsys):
    try:
        got = export(*arguments)
    except SystemExit as end:
        got = end.code
    assert got == code
    assert message in capsys.readouterr().err
