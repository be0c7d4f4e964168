"""docs/migration.md: the program made of ours gives what the formula gives, and what the page says of the code holds.

The program of TensorRT-LLM's is run in tensorrt_llm_source/checks/check_migration.py.
"""

import difflib
import importlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

import trtllm_ext as tx
from trtllm_ext.errors import CheckpointError, ConfigError, EngineError, GraphError, InputError
from trtllm_ext.graph import functional as fn
from trtllm_ext.graph.functional import plugins
from trtllm_ext.layers import FeedForward, GatedFeedForward

BUDGET_S = 4

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "migration.md").read_text()
BEFORE, AFTER = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)

pytestmark = pytest.mark.usefixtures("one_thread")


def section(heading):
    return PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]


def run(program):
    """A program's variables."""
    names = {}
    exec(program, names)
    return names


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def block_formula(tokens, weights):
    """x + proj(gelu(fc(norm(x)))), in float64."""
    x = tokens.astype(np.float64)
    w = {name: value.astype(np.float64) for name, value in weights.items()}
    y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    y = y * w["norm.weight"] + w["norm.bias"]
    y = gelu(y @ w["fc.weight"].T + w["fc.bias"])
    return x + y @ w["proj.weight"].T + w["proj.bias"]


def test_the_second_program_gives_what_the_formula_gives():
    names = run(AFTER)
    weights = {name: each.raw_value for name, each in names["block"].named_parameters()}
    expected = block_formula(names["tokens"], weights)
    np.testing.assert_allclose(names["y"], expected, rtol=1e-5, atol=1e-5)


def test_only_imports_and_the_run_differ():
    lines = [each.splitlines() for each in (BEFORE, AFTER)]
    changed = [line for line in difflib.ndiff(*lines) if line[0] in "+-" and line[2:].strip()]
    runs = re.compile(r". (from|import|tokens|session\.|result|stream|assert session|y =)")
    assert changed and all(runs.match(line) for line in changed), changed


def imports():
    rows = re.findall(
        r"^\| `from (tensorrt_llm[\w.]*) import (.*?)`.*\| `from ([\w.]+) import (.*?)` \|$",
        section("Imports"),
        re.M,
    )
    assert len(rows) == section("Imports").count("| `from tensorrt_llm")
    return rows


@pytest.mark.parametrize(("module", "names"), [row[2:] for row in imports()])
def test_what_is_to_be_imported_is_there(module, names):
    for name in names.split(", "):
        assert getattr(importlib.import_module(module), name) is not None


def test_names_stay_but_for_three_layers():
    for _, theirs, _, ours in imports():
        pairs = zip(theirs.split(", "), ours.split(", "), strict=True)
        others = [pair for pair in pairs if pair[0] != pair[1]]
        assert others in (
            [],
            [("MLP", "FeedForward"), ("GatedMLP", "GatedFeedForward"), ("MOE", "MixtureOfExperts")],
        )


def test_operations_that_need_a_plugin_are_all_listed_and_refuse():
    table = section("Operations that need a compiled plugin")
    rows = re.findall(r"^\| (`.*?) \| (.*?) \|$", table, re.M)
    told = {name: instead for names, instead in rows for name in re.findall(r"`(\w+)`", names)}
    with tx.net_guard(tx.Builder().create_network()):
        for name, instead in told.items():
            with pytest.raises(GraphError, match="a compiled plugin of TensorRT-LLM's") as raised:
                getattr(fn, name)()
            assert instead in str(raised.value)
        with pytest.raises(GraphError, match="Send"):
            fn.send(tensor(), 1)
        with pytest.raises(GraphError, match="Recv"):
            fn.recv(tensor("y"), 1)
    ours = {name for name, each in vars(plugins).items() if "NoReturn" in str(annotation_of(each))}
    assert set(told) == ours


def annotation_of(function):
    return getattr(function, "__annotations__", {}).get("return")


def tensor(name="x", shape=(4, 8), dtype="float32"):
    return tx.Tensor(name=name, dtype=dtype, shape=list(shape))


@pytest.fixture
def network():
    network = tx.Builder().create_network()
    with tx.net_guard(network):
        yield network


def test_what_is_written_wrong_is_an_error(network):
    with pytest.raises(GraphError, match=r"'fc\.weight' .* has no value"):
        FeedForward(8, 16, hidden_act="relu", dtype="float32")(tensor())
    with pytest.raises(GraphError, match="convert the value first"):
        tx.Parameter(shape=(2,), dtype="float16").value = np.ones(2, np.float32)
    with pytest.raises(GraphError, match="cast one of them"):
        tensor("a") + tensor("b", dtype="float16")
    with pytest.raises(GraphError, match="has no truth value"):
        tensor("c") in [tensor("d")]  # noqa: B015 - the search itself is refused
    with pytest.raises(GraphError, match="leave it at None"):
        network.plugin_config.gemm_plugin = "float16"
    network.plugin_config.to_legacy_setting()
    assert network.plugin_config.gemm_plugin is None


def test_a_guard_that_is_left_by_an_error(network):
    with pytest.raises(ZeroDivisionError), tx.net_guard(tx.Builder().create_network()):
        _ = 1 / 0
    assert tx.default_net() is network


def test_arguments_that_are_taken_here_besides(network):
    assert fn.select(tensor("a"), -1, 0).shape == (4,)
    assert fn.expand(tensor("b", (1, 8)), [4, 8]).shape == (4, 8)
    assert fn.layer_norm(tensor("c"), 8).shape == (4, 8)


def test_networks_have_no_drawing(network):
    assert not hasattr(network, "to_dot") and not hasattr(network, "to_onnx")
    assert hasattr(tx.Module, "update_parameters") and hasattr(tx.Module, "register_network_output")


def computed(define, x):
    """What `define(x)` gives for an array."""
    builder = tx.Builder()
    network = builder.create_network()
    with tx.net_guard(network):
        name = {"float32": "float32", "float16": "float16"}[str(x.dtype)]
        define(tensor(shape=x.shape, dtype=name)).mark_output("y", name)
    engine = builder.build_engine(network, builder.create_builder_config(precision="float32"))
    with tx.Session.from_serialized_engine(engine) as session:
        return session.run({"x": x})["y"].astype(np.float64)


def silu(x):
    return x / (1 + np.exp(-x))


def quick_gelu(x):
    return x / (1 + np.exp(-1.702 * x))


@pytest.mark.parametrize(
    ("define", "formula"),
    [
        (fn.gelu, gelu),
        (fn.swiglu, lambda x: x[:, :4] * silu(x[:, 4:])),
        (fn.geglu, lambda x: x[:, :4] * gelu(x[:, 4:])),
        (fn.gegelu, lambda x: quick_gelu(x[:, 0::2]) * (x[:, 1::2] + 1)),
    ],
)
def test_what_an_activation_computes(define, formula):
    x = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    np.testing.assert_allclose(computed(define, x), formula(x.astype(np.float64)), rtol=1e-5, atol=1e-6)


def test_rms_norm_rounds_before_the_weight():
    x = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float16)
    weight = np.random.default_rng(1).normal(size=8).astype(np.float16)
    wide = x.astype(np.float64)
    normed = (wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-6)).astype(np.float16)
    got = computed(lambda y: fn.rms_norm(y, 8, weight=fn.constant(weight)), x)
    assert np.array_equal(got, (normed * weight).astype(np.float64))


def test_names_of_activations_in_layers():
    for name in ("gelu", "swiglu"):
        with pytest.raises(ConfigError, match=name):
            FeedForward(8, 16, hidden_act=name)
    names = {name for name, _ in GatedFeedForward(8, 16, hidden_act="silu", bias=False).named_parameters()}
    assert names == {"fc.weight", "gate.weight", "proj.weight"}


def test_what_a_run_says():
    session = run(AFTER)["session"]
    assert set(session.run({"x": np.zeros((3, 64), np.float32)})) == {"y"}
    for x in (np.zeros((3, 64)), np.zeros((3, 32), np.float32), np.zeros((129, 64), np.float32)):
        with pytest.raises(InputError):
            session.run({"x": x})
    with pytest.raises(EngineError):
        tx.Session.from_serialized_engine(b"no engine")


def test_ranks_and_widths_that_do_not_split():
    assert tx.Mapping(world_size=2, rank=1, tp_size=2).tp_group == [0, 1]
    with pytest.raises(ConfigError, match="does not split"):
        FeedForward(8, 15, hidden_act="relu", tp_group=[0, 1], tp_size=2)


def test_values_that_ask_for_nothing_may_stay():
    from trtllm_ext.cli.main import make_parser
    from trtllm_ext.cli.trtllm_build_flags import settings_of

    shown = re.findall(r"`(--\w+ \w+)`", section("Building"))
    assert "--max_beam_width 1" in shown
    command = ["build", "--checkpoint_dir", "C", *" ".join(shown).split()]
    tx.BuildConfig.from_dict(settings_of(make_parser().parse_args(command)))
    assert tx.BuildConfig().updated(max_batch_size=4).max_batch_size == 4


def test_a_checkpoint_of_tensorrt_llm_s_converters_is_refused(tmp_path):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = {"architecture": "LlamaForCausalLM", "dtype": "float16", "rotary_base": 1e4, **sizes}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"lacks the field 'contract'.* convert the source model"):
        tx.model_from_checkpoint(tmp_path)


@pytest.mark.parametrize(("use_fp32_acc", "casts"), [(True, 3), (False, 0)])
def test_products_of_float16_are_made_in_float32(network, use_fp32_acc, casts):
    a, b = tensor("a", (4, 8), "float16"), tensor("b", (8, 8), "float16")
    fn.matmul(a, b, use_fp32_acc=use_fp32_acc)
    assert [layer.type.name for layer in network.get_layers()].count("CAST") == casts


# As release 0.16 writes it for a decoder of which nothing was asked; its plugin_config shortened.
WRITTEN_BY_TENSORRT_LLM = {
    "max_input_len": 1024,
    "max_seq_len": None,
    "opt_batch_size": 8,
    "max_batch_size": 2048,
    "max_beam_width": 1,
    "max_num_tokens": 8192,
    "opt_num_tokens": None,
    "kv_cache_type": "PAGED",
    "speculative_decoding_mode": 1,
    "lora_config": {
        "lora_dir": [],
        "lora_ckpt_source": "hf",
        "max_lora_rank": 64,
        "lora_target_modules": [],
        "trtllm_modules_to_hf_modules": {},
    },
    "auto_parallel_config": {"world_size": 1, "gpus_per_node": 8, "cluster_key": None},
    "plugin_config": {
        "dtype": "float16",
        "gpt_attention_plugin": "auto",
        "gemm_plugin": None,
        "paged_kv_cache": True,
    },
    "use_fused_mlp": True,
    "visualize_network": False,
}


def test_a_build_config_that_tensorrt_llm_wrote_is_read():
    config = tx.BuildConfig.from_dict(WRITTEN_BY_TENSORRT_LLM)
    assert config.given == {"plugin_config", "visualize_network"}
    assert config.updated(max_batch_size=4).max_batch_size == 4


@pytest.mark.parametrize(
    "asked",
    [
        {"auto_parallel_config": {"world_size": 2}},
        {"lora_config": {"lora_dir": ["adapter"]}},
        {"kv_cache_type": "paged"},
        {"plugin_config": {"gemm_plugin": "float16"}},
    ],
)
def test_what_a_build_config_asks_for_is_refused(asked):
    with pytest.raises(ConfigError, match=next(iter(asked))):
        tx.BuildConfig.from_dict({**WRITTEN_BY_TENSORRT_LLM, **asked})
