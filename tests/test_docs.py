"""The tables in docs are what the code says, and the commands there run."""

import importlib.util
import json
import pkgutil
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from trtllm_ext.cli import main as cli

BUDGET_S = 5

DOCS = Path(__file__).parent.parent / "docs"


def make_tables():
    spec = importlib.util.spec_from_file_location("make_tables", DOCS / "make_tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["forms", "architectures", "compatibility", "migration", "plugins"])
def test_a_table_is_up_to_date(name):
    text = getattr(make_tables(), name)()
    assert (DOCS / f"{name}.md").read_text() == text, "run `python docs/make_tables.py`"


def small_llama(folder):
    hidden, ffn = 8, 12
    config = {"hidden_size": hidden, "intermediate_size": ffn, "num_hidden_layers": 4, "rms_norm_eps": 1e-5}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], **config}))
    shapes = {"post_attention_layernorm": (hidden,), "mlp.down_proj": (hidden, ffn)}
    shapes |= {
        "mlp.gate_proj": (ffn, hidden),
        "mlp.up_proj": (ffn, hidden),
        "self_attn.q_proj": (hidden, hidden),
    }
    rng = np.random.default_rng(0)
    weights = {
        f"model.layers.{i}.{name}.weight": rng.normal(size=shape).astype(np.float32)
        for i in range(4)
        for name, shape in shapes.items()
    }
    save_file(weights, folder / "model.safetensors")


def test_the_commands_for_a_model_of_ones_own(tmp_path, monkeypatch, capsys):
    small_llama(tmp_path / "MODEL")
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    x, attention = (rng.normal(size=size).astype(np.float32) for size in ((3, 8), (2, 3, 8)))
    np.savez("inputs.npz", hidden_states=x, attention_output=attention)
    text = (DOCS / "your_own_model.md").read_text()
    (block,) = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    listing = re.findall(r"`trtllm-ext (build --dry_run [^`]*)`", text)
    commands = [line.removeprefix("trtllm-ext ") for line in block.splitlines()]
    assert len(commands) == 4 and len(listing) == 1
    for command in [*commands, *listing]:
        assert cli.main(shlex.split(command)) == 0, command
    assert "transformer.layers.0.mlp.before" in capsys.readouterr().out
    outputs = np.load("outputs.npz")
    added = [outputs[name] for name in outputs if name.endswith(".contribution")]
    assert len(added) == 4
    np.testing.assert_allclose(x + sum(added), outputs["hidden_states_out"], rtol=0, atol=1e-4)


def test_what_the_page_of_plugins_names_is_there():
    text = (DOCS / "plugins.md").read_text()
    makefile = (DOCS.parent / "Makefile").read_text()
    (block,) = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    for line in block.splitlines():
        words = shlex.split(line, comments=True)
        if words[0] == "trtllm-ext":
            cli.make_parser().parse_args(words[1:])
        else:
            assert words[0] == "make"
    # The checkpoint is README's: what is built of it there is built with plugins here.
    readme = (DOCS.parent / "README.md").read_text()
    (plain,) = re.findall(r"^trtllm-ext build .*$", readme, re.MULTILINE)
    assert f"\n{plain} --ffn_plugin auto" in block
    for name in re.findall(r"`(?:kernels = )?(trtllm_ext\.plugin\.(?!torch_)[\w.]+)", text):
        pkgutil.resolve_name(name)
    for target in re.findall(r"(?:`|\n)make ([a-z-]+)", text):
        assert f"\n{target}:" in makefile, target
    for link in re.findall(r"\]\(([^)#]+)", text):
        assert (DOCS / link).exists(), link
    for path in re.findall(r"(?:python|-S) ((?:tests|examples|benchmarks)/\S+?)[`\s]", text):
        assert (DOCS.parent / path).exists(), path
