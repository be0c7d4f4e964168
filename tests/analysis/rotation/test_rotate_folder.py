"""Hugging Face folders: the rotated model's logits are the original's in float64; what cannot be is refused."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from trtllm_ext.analysis.rotation import load_transform, rotate_folder
from trtllm_ext.cli import main as cli
from trtllm_ext.errors import CheckpointError, ConfigError
from trtllm_ext.verify.formulas import ACTIVATION, layer_norm, rms_norm, softmax

BUDGET_S = 1

HIDDEN, FFN, HEADS, WORDS, LAYERS = 12, 20, 2, 11, 2
IDS = np.array([3, 1, 4, 1, 5, 9, 2])


def written(path, config, shapes, files=1):
    """A folder of random float64 weights, tokenizer and all, in that many files."""
    rng = np.random.default_rng(0)
    weights = {
        name: rng.normal(size=shape) / np.sqrt(shape[-1])
        if len(shape) > 1
        else 1 + 0.3 * rng.normal(size=shape)
        for name, shape in shapes.items()
    }
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    (path / "tokenizer.json").write_text('{"model": 1}')
    (path / "pytorch_model.h5").write_text("weights in another form")
    if files == 1:
        save_file(weights, path / "model.safetensors")
        return weights
    names = {
        f"model-{number + 1:05}-of-{files:05}.safetensors": list(weights)[number::files]
        for number in range(files)
    }
    for file, held in names.items():
        save_file({name: weights[name] for name in held}, path / file)
    weight_map = {name: file for file, held in names.items() for name in held}
    index = {"metadata": {}, "weight_map": weight_map}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    return weights


def qwen2(path, **changes):
    shapes = {"model.embed_tokens.weight": (WORDS, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for i in range(LAYERS):
        layer = f"model.layers.{i}"
        for name in ("q", "k", "v"):
            shapes |= {
                f"{layer}.self_attn.{name}_proj.weight": (HIDDEN, HIDDEN),
                f"{layer}.self_attn.{name}_proj.bias": (HIDDEN,),
            }
        shapes |= {
            f"{layer}.self_attn.o_proj.weight": (HIDDEN, HIDDEN),
            f"{layer}.mlp.gate_proj.weight": (FFN, HIDDEN),
            f"{layer}.mlp.up_proj.weight": (FFN, HIDDEN),
            f"{layer}.mlp.down_proj.weight": (HIDDEN, FFN),
            f"{layer}.input_layernorm.weight": (HIDDEN,),
            f"{layer}.post_attention_layernorm.weight": (HIDDEN,),
        }
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": HIDDEN,
        "intermediate_size": FFN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "vocab_size": WORDS,
        "tie_word_embeddings": True,
    }
    return written(path, {**config, **changes}, shapes, files=2)


def gpt2(path, **changes):
    shapes = {"transformer.wte.weight": (WORDS, HIDDEN), "transformer.wpe.weight": (16, HIDDEN)}
    norms = ["transformer.ln_f"]
    for i in range(LAYERS):
        layer = f"transformer.h.{i}"
        norms += [f"{layer}.ln_1", f"{layer}.ln_2"]
        for name, rows, columns in (
            ("attn.c_attn", HIDDEN, 3 * HIDDEN),
            ("attn.c_proj", HIDDEN, HIDDEN),
            ("mlp.c_fc", HIDDEN, FFN),
            ("mlp.c_proj", FFN, HIDDEN),
        ):
            shapes |= {f"{layer}.{name}.weight": (rows, columns), f"{layer}.{name}.bias": (columns,)}
    shapes |= {f"{norm}.{kind}": (HIDDEN,) for norm in norms for kind in ("weight", "bias")}
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_embd": HIDDEN,
        "n_inner": FFN,
        "n_layer": LAYERS,
        "n_head": HEADS,
        "n_positions": 16,
        "vocab_size": WORDS,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
    }
    return written(path, {**config, **changes}, shapes)


def attended(q, k, v):
    """Causal attention; positions are left out, which are between q and k alone."""
    mask = np.triu(np.full((len(q), len(q)), -np.inf), 1)
    size = HIDDEN // HEADS
    parts = [slice(head * size, (head + 1) * size) for head in range(HEADS)]
    return np.concatenate([softmax(q[:, p] @ k[:, p].T / np.sqrt(size) + mask) @ v[:, p] for p in parts], -1)


def qwen2_logits(w, headless=False):
    x = w["model.embed_tokens.weight"][IDS]
    for i in range(LAYERS):
        layer = f"model.layers.{i}"
        z = rms_norm(x, w[f"{layer}.input_layernorm.weight"], 1e-5)
        q, k, v = (
            z @ w[f"{layer}.self_attn.{n}_proj.weight"].T + w[f"{layer}.self_attn.{n}_proj.bias"]
            for n in "qkv"
        )
        x = x + attended(q, k, v) @ w[f"{layer}.self_attn.o_proj.weight"].T
        z = rms_norm(x, w[f"{layer}.post_attention_layernorm.weight"], 1e-5)
        gate, up = (z @ w[f"{layer}.mlp.{name}_proj.weight"].T for name in ("gate", "up"))
        x = x + (ACTIVATION["silu"](gate) * up) @ w[f"{layer}.mlp.down_proj.weight"].T
    head = w.get("lm_head.weight", w["model.embed_tokens.weight"])
    return rms_norm(x, w["model.norm.weight"], 1e-5) @ (np.eye(HIDDEN) if headless else head.T)


def gpt2_logits(w):
    def normed(x, name):
        return layer_norm(x, w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)

    def linear(x, name):
        return x @ w[f"{name}.weight"] + w[f"{name}.bias"]

    x = w["transformer.wte.weight"][IDS] + w["transformer.wpe.weight"][: len(IDS)]
    for i in range(LAYERS):
        layer = f"transformer.h.{i}"
        qkv = linear(normed(x, f"{layer}.ln_1"), f"{layer}.attn.c_attn")
        x = x + linear(attended(*np.split(qkv, 3, -1)), f"{layer}.attn.c_proj")
        inner = ACTIVATION["gelu_tanh"](linear(normed(x, f"{layer}.ln_2"), f"{layer}.mlp.c_fc"))
        x = x + linear(inner, f"{layer}.mlp.c_proj")
    return normed(x, "transformer.ln_f") @ w.get("lm_head.weight", w["transformer.wte.weight"]).T


def read(path):
    return {
        name: value for file in path.glob("model*.safetensors") for name, value in load_file(file).items()
    }


MODELS = {"qwen2": (qwen2, qwen2_logits), "gpt2": (gpt2, gpt2_logits)}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("rotation", ["hadamard", "orthogonal", "identity"])
def test_the_rotated_model_has_the_same_logits(tmp_path, name, rotation):
    make, logits = MODELS[name]
    weights = make(tmp_path / "a")
    found = rotate_folder(tmp_path / "a", tmp_path / "b", rotation=rotation, seed=1)
    rotated, expected = read(tmp_path / "b"), logits(weights)
    assert np.abs(logits(rotated) - expected).max() <= 1e-10 * np.abs(expected).max()
    assert found.untied and set(rotated) == set(weights) | {"lm_head.weight"}
    assert json.loads((tmp_path / "b/config.json").read_text())["tie_word_embeddings"] is False
    assert (tmp_path / "b/tokenizer.json").read_text() == '{"model": 1}'
    assert not (tmp_path / "b/pytorch_model.h5").exists()
    norm = next(
        value for key, value in rotated.items() if key.endswith(("ln_1.weight", "input_layernorm.weight"))
    )
    assert (norm == 1).all()
    # The embedding is the original's in the other basis.
    table = next(key for key in weights if key.endswith(("wte.weight", "embed_tokens.weight")))
    np.testing.assert_allclose(
        rotated[table], load_transform(tmp_path / "b").into(weights[table]), rtol=0, atol=1e-12
    )


def test_a_model_without_a_head_comes_back_by_the_transform(tmp_path):
    weights = qwen2(tmp_path / "a", architectures=["Qwen2Model"])
    transform = rotate_folder(tmp_path / "a", tmp_path / "b").transform
    expected = qwen2_logits(weights, headless=True)
    got = transform.back(qwen2_logits(read(tmp_path / "b"), headless=True))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-10 * np.abs(expected).max())
    assert transform.gain is not None


def test_a_bias_that_nothing_can_take_is_refused(tmp_path):
    weights = gpt2(tmp_path / "a")
    weights["transformer.ln_f.weight"][0] = 0
    save_file(weights, tmp_path / "a" / "model.safetensors")
    with pytest.raises(ConfigError, match=r"ln_f\.bias is not zero where its norm's weight is"):
        rotate_folder(tmp_path / "a", tmp_path / "b")


def test_weights_lie_in_files_as_the_sources_do(tmp_path):
    qwen2(tmp_path / "a")
    rotate_folder(tmp_path / "a", tmp_path / "b")
    index = json.loads((tmp_path / "b/model.safetensors.index.json").read_text())["weight_map"]
    before = json.loads((tmp_path / "a/model.safetensors.index.json").read_text())["weight_map"]
    assert index == {**before, "lm_head.weight": "model-00002-of-00002.safetensors"}
    rotate_folder(tmp_path / "a", tmp_path / "c", dtype="float32")
    assert {value.dtype.name for value in read(tmp_path / "c").values()} == {"float32"}
    wide = read(tmp_path / "b")
    assert all(
        np.array_equal(value, wide[name].astype(np.float32)) for name, value in read(tmp_path / "c").items()
    )


def test_a_rotated_folder_converts_to_a_stack_that_says_so(tmp_path, capsys):
    qwen2(tmp_path / "a")
    assert (
        cli.main(
            ["stream", "rotate", "--model_dir", str(tmp_path / "a"), "--output_dir", str(tmp_path / "b")]
        )
        == 0
    )
    told = capsys.readouterr().out
    assert (
        "random Hadamard 12" in told and "lm_head.weight" in told and "logits out are what they were" in told
    )
    convert = [
        "convert",
        "--model_dir",
        str(tmp_path / "b"),
        "--output_dir",
        str(tmp_path / "c"),
        "--dtype",
        "float32",
    ]
    assert cli.main(convert) == 0
    assert np.array_equal(load_transform(tmp_path / "c").rotation, load_transform(tmp_path / "b").rotation)


def test_a_model_that_is_another_one_in_a_rotated_basis_is_refused(tmp_path):
    shapes = {}
    for i in range(LAYERS):
        layer = f"model.layers.{i}"
        shapes |= {f"{layer}.self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qkvo"}
        shapes |= {f"{layer}.self_attn.{name}_norm.weight": (HIDDEN,) for name in "qk"}
        shapes |= {f"{layer}.mlp.{name}_proj.weight": (FFN, HIDDEN) for name in ("gate", "up")}
        shapes |= {f"{layer}.mlp.down_proj.weight": (HIDDEN, FFN)}
        shapes |= {
            f"{layer}.post_{name}_layernorm.weight": (HIDDEN,) for name in ("attention", "feedforward")
        }
    shapes |= {
        "model.embed_tokens.weight": (WORDS, HIDDEN),
        "model.norm.weight": (HIDDEN,),
        "lm_head.weight": (WORDS, HIDDEN),
    }
    config = {
        "architectures": ["Olmo2ForCausalLM"],
        "model_type": "olmo2",
        "hidden_size": HIDDEN,
        "intermediate_size": FFN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    }
    written(tmp_path / "a", config, shapes)
    with pytest.raises(ConfigError, match="the norm of what mlp adds to the stream multiplies each channel"):
        rotate_folder(tmp_path / "a", tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_what_is_no_folder_or_no_empty_place_is_refused(tmp_path, capsys):
    gpt2(tmp_path / "a")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").write_text("mine")
    with pytest.raises(CheckpointError, match=r"full holds files.*thesis\.txt"):
        rotate_folder(tmp_path / "a", tmp_path / "full")
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        rotate_folder(tmp_path / "full", tmp_path / "b")
    options = ["stream", "rotate", "--model_dir", str(tmp_path / "a"), "--output_dir", str(tmp_path / "b")]
    for extra, message in (
        (["--layer_norm", "fold"], "LayerNorms are kept"),
        (["--rotation", "q.npy"], "does not exist"),
    ):
        assert cli.main([*options, *extra]) != 0
        assert message in " ".join(capsys.readouterr().err.split())


def test_an_interrupt_leaves_nothing(tmp_path):
    gpt2(tmp_path / "a")

    def interrupt(step, done, total):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rotate_folder(tmp_path / "a", tmp_path / "b", progress=interrupt)
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".b.lock")) == ["a"]


def test_a_norm_that_holds_nan_is_refused_and_nothing_is_written(tmp_path):
    for name in ("transformer.ln_f.weight", "transformer.h.1.ln_2.bias"):
        weights = gpt2(tmp_path / name)
        weights[name][2] = np.nan
        save_file(weights, tmp_path / name / "model.safetensors")
        with pytest.raises(CheckpointError, match=r"holds NaN or infinity"):
            rotate_folder(tmp_path / name, tmp_path / "b")
        assert not (tmp_path / "b").exists()


def test_the_same_arguments_write_the_same_bytes(tmp_path):
    gpt2(tmp_path / "a")
    for name in "bcd":
        rotate_folder(tmp_path / "a", tmp_path / name, seed=3)
    written = [{p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in "bcd"]
    assert written[0] == written[1] == written[2]
