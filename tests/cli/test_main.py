"""The command line as a whole: help, exit codes, one sentence for an error."""

import argparse
import os
import subprocess
import sys

import pytest

from trtllm_ext.cli import main as cli
from trtllm_ext.cli.stream import SUBCOMMANDS
from trtllm_ext.errors import BuildError

BUDGET_S = 15


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "trtllm_ext.cli.main", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, **environment},
        check=False,
    )


def test_help_needs_no_package():
    """Every command explains itself with nothing installed but Python."""
    code = (
        "import sys\n"
        "for name in ('numpy', 'onnx', 'onnxruntime', 'rich', 'tokenizers', 'torch', 'safetensors', 'ml_dtypes'):\n"
        "    sys.modules[name] = None\n"
        "from trtllm_ext.cli import main\n"
        "for command in main.COMMANDS:\n"
        "    try:\n"
        "        main.main([command, '--help'])\n"
        "    except SystemExit as end:\n"
        "        assert end.code == 0\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: trtllm-ext ") == len(cli.COMMANDS)
    assert "The engine directory appears whole or not at all." in done.stdout


@pytest.mark.parametrize("subcommand", SUBCOMMANDS)
def test_help_of_each_look_at_the_stream(subcommand, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["stream", subcommand, "--help"])
    assert end.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"usage: trtllm-ext stream {subcommand} " in said
    assert " ".join((SUBCOMMANDS[subcommand].__doc__ or "").split())[:60] in said


# Adding an option is a decision: it belongs in this list too.
OPTIONS = {
    "convert": "--model_dir --output_dir --dtype --allow_nan --tp_size --layers --stack --attention_input "
    "--stream_dtype",
    "build": "--checkpoint_dir --output_dir --build_config --from-engine --from_engine --max_batch_size "
    "--opt_batch_size --max_input_len --max_seq_len --max_num_tokens --opt_num_tokens --profiling_verbosity "
    "--input_timing_cache --output_timing_cache --ffn_plugin --residual_norm_plugin --gated_activation_plugin --taps "
    "--surgery --enable_debug_output --deterministic --sequence_parallel "
    "--use_refit --strip_plan --weight_streaming --weight_sparsity --no_tf32 --version_compatible "
    "--builder_optimization_level --force_num_profiles --hardware_compatibility_level "
    "--precision_constraints --memory_pool_limit --allow_nan --workers --dry_run --tp_size",
    "export": "--onnx --triton --checkpoint_dir --engine_dir --build_config --max_batch_size --opt_batch_size "
    "--max_input_len --max_seq_len --max_num_tokens --opt_num_tokens --taps --external_data --allow_nan --model_name "
    "--existing_config --plugin_library",
    "refit": "--engine_dir --checkpoint_dir --output_dir --allow_nan",
    "run": "--engine_dir --rank --load_mode --gpu_weights_percent --nproc --no_self_test --input --output",
    "embed": "--engine_dir --rank --load_mode --gpu_weights_percent --nproc --no_self_test --sentences --tokenizer "
    "--output",
    "verify": "--checkpoint_dir --engine_dir --input --bisect --headroom --json --simulate_ranks --max_batch_size "
    "--opt_batch_size --max_input_len --max_seq_len --max_num_tokens --opt_num_tokens --sequence_parallel --allow_nan",
    "inspect": "--engine_dir --rank --layers --json",
    "serve": "--engine_dir --rank --load_mode --gpu_weights_percent --nproc --no_self_test --model_name --host --input "
    "--tokenizer --http_port --grpc_port --metrics_port --max_batch_size --max_queue_delay_microseconds "
    "--max_queue_size --max_request_bytes --request_timeout --exit_timeout_secs",
    "doctor": "--json --quick",
}


@pytest.mark.parametrize("command", OPTIONS)
def test_the_options_are_those_that_were_decided(command):
    parser = cli.make_parser()._subparsers._group_actions[0].choices[command]
    options = [
        name
        for action in parser._actions
        for name in action.option_strings
        if action.help != argparse.SUPPRESS  # those of trtllm-build, which ask for nothing
    ]
    last = ["--log_level"] + ([] if command in ("convert", "export", "doctor") else ["--plugin_library"])
    assert options == ["-h", "--help", *OPTIONS[command].split(), *last]


_SOURCES = "--checkpoint_dir --model_dir --engine_dir --sentences --input --tokenizer"
STREAM_OPTIONS = {
    "capture": "--model_dir --text --sentences --token_ids --output --engine_dir",
    "decompose": "--engine_dir --checkpoint_dir --sentences --input --tokenizer --output_dir --model_dir --lens "
    "--tokens --token_ids --top_k --directions",
    "rotate": "--checkpoint_dir --model_dir --output_dir --rotation --seed --layer_norm --dtype --report_dir "
    "--weights_only --input",
    "steer": "--engine_dir --sentences --input --tokenizer --scale --drop --replace --add --output_dir",
    "weights": "--checkpoint_dir --model_dir --stack --pairs --directions --samples --seed --estimate --output_dir",
    "spectrum": f"{_SOURCES} --output_dir",
    "neurons": f"{_SOURCES} --top --output_dir",
    "report": f"{_SOURCES} --output_dir",
}


@pytest.mark.parametrize("subcommand", SUBCOMMANDS)
def test_the_options_of_each_look_at_the_stream_are_those_that_were_decided(subcommand):
    stream = cli.make_parser()._subparsers._group_actions[0].choices["stream"]
    parser = stream._subparsers._group_actions[0].choices[subcommand]
    options = [name for action in parser._actions for name in action.option_strings]
    last = ["--log_level", "--plugin_library"]
    assert options == ["-h", "--help", *STREAM_OPTIONS[subcommand].split(), *last]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["build", "--checkpoint_dir", "x", "--max_batchsize", "4"], "Did you mean --max_batch_size?"),
        (["build", "--checkpoint_dir", "x", "--max-batch-size=4"], "Did you mean --max_batch_size?"),
        (["build", "--checkpoint_dir", "x", "--max_batch", "4"], "unknown: --max_batch 4"),
        (["build", "--checkpoint_dir", "x", "--max_batch_size", "many"], "invalid int value: 'many'"),
        (["build"], "the following arguments are required: --checkpoint_dir"),
        (["run", "--engine_dir", "x"], "the following arguments are required: --input, --output"),
        (["convert", "--model-dir", "x"], "; unknown: --model-dir. Did you mean --model_dir?"),
        (["run", "--engine=x", "--input", "x"], "; unknown: --engine. Did you mean --engine_dir?"),
        (["run", "--engine_dir", "x", "--zebra"], "required: --input, --output; unknown: --zebra\n"),
        (["inspect"], "one of the arguments ENGINE --engine_dir is required"),
        (["inspect", "x", "--engine_dir", "y"], "--engine_dir: not allowed with argument ENGINE"),
        (["bild"], "invalid choice: 'bild'"),
        (["verfy", "--engine_dir", "x"], "Did you mean verify?"),
        ([], "required: COMMAND"),
    ],
)
def test_wrong_usage(arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_an_error_is_one_sentence():
    done = run("build", "--checkpoint_dir", "/nowhere/checkpoint", "--output_dir", "/nowhere/engine")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("trtllm-ext: error: ")


def test_tracebacks_on_request():
    done = run("build", "--checkpoint_dir", "/nowhere/checkpoint", TRTLLM_EXT_TRACEBACK="1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (BuildError("the value, the way out."), "trtllm-ext: error: the value, the way out."),
        (
            ZeroDivisionError("division by zero"),
            "ZeroDivisionError: division by zero (not expected; TRTLLM_EXT_TRACEBACK=1",
        ),
    ],
)
def test_errors_of_a_command(monkeypatch, capsys, problem, message):
    def fail(arguments):
        raise problem

    monkeypatch.delenv("TRTLLM_EXT_TRACEBACK", raising=False)
    monkeypatch.setattr(cli.inspect, "run", fail)
    assert cli.main(["inspect", "engine"]) == 1
    assert message in capsys.readouterr().err


# A child that may be interrupted, also where its parent ignores SIGINT, as a background job of a shell does.
CHILD = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from trtllm_ext.cli import main as cli

def interrupt(arguments=None):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(2)

def interrupted_import(arguments=None):
    try:
        interrupt()
    except KeyboardInterrupt:
        raise ImportError("numpy failed to import")
"""


def child(code):
    return subprocess.run(
        [sys.executable, "-c", CHILD + code], capture_output=True, text=True, timeout=30, check=False
    )


@pytest.mark.parametrize("how", ["interrupt", "interrupted_import"])
def test_interrupted(how):
    done = child(f"cli.inspect.run = {how}\nsys.exit(cli.main(['inspect', 'engine']))")
    assert done.returncode == 130
    assert done.stderr == "trtllm-ext: interrupted\n"


def test_an_interrupt_while_doctor_imports_is_no_finding():
    done = child("""
class Finder:
    def find_spec(self, name, path, target=None):
        if name == "onnxruntime.capi":
            interrupted_import()

sys.meta_path.insert(0, Finder())
sys.exit(cli.main(["doctor"]))
""")
    assert done.returncode == 130, done.stdout
    assert done.stderr == "trtllm-ext: interrupted\n"
    assert done.stdout == ""


def test_an_ignored_interrupt_stays_ignored():
    done = child("""
signal.signal(signal.SIGINT, signal.SIG_IGN)
cli.inspect.run = lambda arguments: os.kill(os.getpid(), signal.SIGINT) or 0
sys.exit(cli.main(["inspect", "engine"]))
""")
    assert (done.returncode, done.stderr) == (0, "")


def test_an_earlier_interrupt_says_nothing_about_the_next_command():
    done = child("""
cli.inspect.run = interrupt
assert cli.main(["inspect", "engine"]) == 130
def fail(arguments):
    raise ZeroDivisionError
cli.inspect.run = fail
sys.exit(cli.main(["inspect", "engine"]))
""")
    assert done.returncode == 1
    assert "ZeroDivisionError: no text (not expected" in done.stderr


@pytest.mark.parametrize("length", [10, 1_000_000])
def test_stdout_that_takes_no_more(tmp_path, length):
    """A file size limit stands in for a full disk."""
    code = f"""
import resource
cli.inspect.run = lambda arguments: print("x" * {length}) or 0
resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
sys.exit(cli.main(["inspect", "engine"]))
"""
    with (tmp_path / "out").open("w") as out:
        done = subprocess.run(
            [sys.executable, "-c", CHILD + code],
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            timeout=30,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "trtllm-ext: error: the output cannot be written: file too large.\n"


def test_the_package_runs_as_a_module():
    command = [sys.executable, "-m", "trtllm_ext", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout.split()[0]) == (0, "trtllm-ext")


def test_an_unknown_backend_is_told():
    done = run("run", "--engine_dir", "/", "--input", "x.npz", "--output", "y.npz", TRTLLM_EXT_BACKEND="cuda")
    assert done.returncode == 1
    assert "error: " in done.stderr


def test_output_that_nobody_reads():
    code = f"{sys.executable} -m trtllm_ext.cli.main build --help | true"
    done = subprocess.run(["sh", "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert done.stderr == ""
