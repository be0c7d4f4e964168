"""Flags of trtllm-build: those that ask for nothing are taken, the others refused with a reason."""

import json

import pytest

from trtllm_ext.cli import main as cli
from trtllm_ext.models import sublayer_stack_config, write_random_checkpoint

BUDGET_S = 20


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint")
    config = sublayer_stack_config(hidden_size=8, ffn_hidden_size=16, num_hidden_layers=1)
    write_random_checkpoint(path, config)
    return path


@pytest.fixture
def build(checkpoint, tmp_path, capsys):
    """build(flags) -> exit code, the written build_config or None, what stderr said."""

    def run(flags):
        capsys.readouterr()
        paths = ["--checkpoint_dir", str(checkpoint), "--output_dir", str(tmp_path / "engine")]
        code = cli.main(["build", *paths, "--max_num_tokens", "8", *flags.split()])
        config = json.loads((tmp_path / "engine/config.json").read_text()) if code == 0 else {}
        return code, config.get("build_config"), capsys.readouterr().err

    return run


def test_neutral_values_are_taken(build):
    code, config, said = build(
        "--max_beam_width 1 --workers 1 --max_encoder_input_len 1024 --max_prompt_embedding_table_size 0 "
        "--kv_cache_type disabled --paged_kv_cache disable --max_draft_len 0 --logits_dtype float32 "
        "--remove_input_padding enable --context_fmha enable --tokens_per_block 64 --multiple_profiles disable "
        "--gemm_plugin disable --nccl_plugin auto --bert_attention_plugin disable --gpt_attention_plugin disable "
        "--moe_plugin disable --use_fused_mlp disable --auto_parallel 1 --gpus_per_node 8"
    )
    assert code == 0, said
    assert config["max_beam_width"] == 1
    assert config["kv_cache_type"] == "disabled"
    assert config["plugin_config"]["gemm_plugin"] is False
    assert config["plugin_config"]["nccl_plugin"] == "auto"
    assert config["plugin_config"]["tokens_per_block"] == 64


def test_plugin_flags_win_over_the_file(build, tmp_path):
    switches = {"gemm_plugin": "auto", "context_fmha": True}
    (tmp_path / "build.json").write_text(json.dumps({"plugin_config": switches}))
    code, config, said = build(f"--build_config {tmp_path / 'build.json'} --gemm_plugin disable")
    assert code == 0, said
    assert config["plugin_config"] == {"gemm_plugin": False, "context_fmha": True}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--max_beam_width 4", "max_beam_width=4 is a setting for decoders that generate text"),
        ("--kv_cache_type paged", "kv_cache_type='paged' is a setting for decoders that generate text"),
        ("--max_encoder_input_len 77", "max_encoder_input_len=77 is a setting for decoders"),
        ("--max_multimodal_len 5", "max_prompt_embedding_table_size=5 is a setting for decoders"),
        (
            "--speculative_decoding_mode medusa",
            "speculative_decoding_mode='medusa' is a setting for decoders",
        ),
        ("--gather_context_logits", "gather_context_logits=True is a setting for decoders"),
        ("--gemm_plugin float16", "gemm_plugin='float16' asks for a plugin, and this build has none"),
        ("--ffn_plugin enable", "plugin_config.ffn_plugin = 'enable' is not known. Known: auto, float32"),
        ("--nccl_plugin bfloat16", "nccl_plugin='bfloat16' asks for a plugin"),
        ("--monitor_memory", "monitor_memory=True is not offered by this package"),
        ("--workers 0", "workers=0 is not a number of processes; give 1 or more"),
        ("--logits_dtype float16", "--logits_dtype float16 is refused: no model of this package has logits"),
        ("--lora_dir adapter", "--lora_dir adapter is refused: "),
        ("--model_cls_file model.py", "--model_cls_file model.py is refused: "),
        ("--paged_kv_cache enable", "--paged_kv_cache enable is refused: "),
        ("--auto_parallel 2", "--auto_parallel 2 is refused: "),
        ("--fast_build", "--fast_build is refused: "),
    ],
)
def test_other_values_are_refused_with_the_reason(build, flags, message):
    code, _, said = build(flags)
    assert code == 1
    assert message in said


@pytest.mark.parametrize(
    ("flag", "near"), [("--gemm_plugins", "--gemm_plugin"), ("--kv_cache_typ", "--kv_cache_type")]
)
def test_an_unknown_flag_is_answered_with_the_nearest(capsys, flag, near):
    with pytest.raises(SystemExit) as caught:
        cli.main(["build", "--checkpoint_dir", "x", flag, "disable"])
    assert caught.value.code == 2
    assert f"Did you mean {near}?" in capsys.readouterr().err


def test_help_does_not_list_them(capsys):
    with pytest.raises(SystemExit):
        cli.main(["build", "--help"])
    told = capsys.readouterr().out
    assert "gemm_plugin" not in told.split("options:")[1]
    assert "Other flags of trtllm-build" in told
