"""A language model's stream captured, decomposed, and read by the lens, against PyTorch's own computation."""

import json
from copy import deepcopy
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

BUDGET_S = 24
pytestmark = [pytest.mark.long, pytest.mark.usefixtures("one_thread")]

LAYERS, HIDDEN, VOCAB = 3, 48, 64
TEXTS = [[3, 5, 7, 9, 11, 60], [4, 4, 41]]
TARGETS = (5, 41)
# Of float32 computations that add up in another order, as a share of the largest value.
CLOSE = 1e-5

_SIZES = {
    "hidden_size": HIDDEN,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "vocab_size": VOCAB,
    "max_position_embeddings": 40,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
_GPT = {"n_embd": HIDDEN, "n_layer": LAYERS, "n_head": 4, "n_positions": 40, "vocab_size": VOCAB}
_GPT |= {"bos_token_id": 2, "eos_token_id": 3}
_KV = {**_SIZES, "num_key_value_heads": 2, "pad_token_id": 0}

MODELS = {
    "GPT2LMHeadModel": ("GPT2Config", _GPT),
    "LlamaForCausalLM": ("LlamaConfig", _KV),
    "GPTNeoXForCausalLM": ("GPTNeoXConfig", _SIZES),
    "GPTJForCausalLM": ("GPTJConfig", {**_GPT, "rotary_dim": 8}),
    "OlmoForCausalLM": ("OlmoConfig", _KV),
    "Olmo2ForCausalLM": ("Olmo2Config", _KV),
    "Gemma2ForCausalLM": ("Gemma2Config", {**_KV, "head_dim": 12}),
    "GraniteForCausalLM": ("GraniteConfig", {**_KV, "residual_multiplier": 0.3, "logits_scaling": 3.0}),
    "MixtralForCausalLM": ("MixtralConfig", {**_KV, "num_local_experts": 4}),
    "FalconForCausalLM": (
        "FalconConfig",
        {name: _SIZES[name] for name in _SIZES if name != "intermediate_size"},
    ),
    "OPTForCausalLM": (
        "OPTConfig",
        {name: _SIZES[name] for name in _SIZES if name != "intermediate_size"}
        | {"ffn_dim": 96, "word_embed_proj_dim": HIDDEN, "pad_token_id": 0},
    ),
    "BloomForCausalLM": (
        "BloomConfig",
        {"hidden_size": HIDDEN, "n_layer": LAYERS, "n_head": 4, "vocab_size": VOCAB},
    ),
    "CohereForCausalLM": ("CohereConfig", {**_KV, "logit_scale": 0.3}),
    "PhiForCausalLM": ("PhiConfig", _SIZES),
    "OpenAIGPTLMHeadModel": ("OpenAIGPTConfig", {name: _GPT[name] for name in _GPT if name[1:4] != "os_"}),
    "BertModel": ("BertConfig", {**_SIZES, "num_hidden_layers": 2}),
    "T5ForConditionalGeneration": (
        "T5Config",
        {"d_model": HIDDEN, "d_ff": 96, "num_layers": 2, "num_heads": 4, "d_kv": 12, "vocab_size": VOCAB},
    ),
    "ViTModel": (
        "ViTConfig",
        {"hidden_size": HIDDEN, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4},
    ),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """From a class's name to (folder, model): random weights, norms' too."""
    import torch
    import transformers

    @cache
    def made(name):
        config, sizes = MODELS[name]
        torch.manual_seed(1)
        model = getattr(transformers, name)(getattr(transformers, config)(**sizes)).eval()
        with torch.no_grad():
            for label, parameter in model.named_parameters():
                spread = 1 / parameter.shape[-1] ** 0.5 if parameter.ndim > 1 else 0.3
                offset = 1.0 if parameter.ndim == 1 and "bias" not in label else 0.0
                parameter.copy_(torch.randn_like(parameter) * spread + offset)
        folder = tmp_path_factory.mktemp(name)
        model.save_pretrained(folder)
        return folder, model

    return made


OTHERS = ("OpenAIGPTLMHeadModel", "BertModel", "T5ForConditionalGeneration", "ViTModel")
CAPTURED = [name for name in MODELS if name not in OTHERS]


@pytest.mark.parametrize("name", CAPTURED)
def test_the_engine_s_stream_ends_where_the_model_s_does(models, name):
    from trtllm_ext.analysis.capture.capture import capture, check_against_engine
    from trtllm_ext.errors import AnalysisError

    folder, _ = models(name)
    captured = capture(str(folder), TEXTS)
    assert captured.starts == (0, 6, 9)
    assert captured.attention_output.shape == (LAYERS, 9, HIDDEN)
    assert np.abs(captured.attention_output).max() > 0.01
    assert check_against_engine(captured, model_dir=str(folder)) < 2e-6
    shifted = np.roll(captured.attention_output, 1, 0)
    with pytest.raises(AnalysisError, match="of its largest value away from the model's"):
        check_against_engine(replace(captured, attention_output=shifted), model_dir=str(folder))


@pytest.mark.parametrize("name", CAPTURED)
def test_logits_are_the_model_s(models, tmp_path, name):
    """Its final norm, head, biases and factors, before a soft cap of the logits."""
    import torch

    from trtllm_ext.analysis.capture.capture import capture
    from trtllm_ext.analysis.decomposition.direct_effects import Questions, examine
    from trtllm_ext.analysis.decomposition.lens_sources import lens_of_model
    from trtllm_ext.analysis.running.engines import tapped_engine
    from trtllm_ext.checkpoint import convert

    folder, model = models(name)
    captured = capture(str(folder), TEXTS[:1])
    convert(folder, tmp_path / "checkpoint", attention_input=True)
    questions = Questions(lens_of_model(str(folder)), TARGETS)
    with tapped_engine(checkpoint_dir=tmp_path / "checkpoint") as engine:
        found = examine(engine, None, captured.inputs(), questions=questions, embeddings=captured.embeddings)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor(TEXTS[:1])).logits[0][:, list(TARGETS)].double().numpy()
    cap = getattr(model.config, "final_logit_softcapping", None)
    if cap is not None:
        logits = np.arctanh(logits / cap) * cap
        assert "final_logit_softcapping" in " ".join(questions.lens.remarks)
    assert np.abs(found.attribution.logits - logits).max() <= CLOSE * np.abs(logits).max()


def watched(model, modules):
    """What the modules give for all texts, [tokens, hidden] each, the embedded stream, and the logits."""
    import torch

    seen = {name: [] for name in (*modules, "embedding", "logits")}

    def keep(name):
        return lambda module, arguments, output: seen[name].append(
            output[0] if isinstance(output, tuple) else output
        )

    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    with torch.no_grad():
        for text in TEXTS:
            result = model(input_ids=torch.tensor([text]), output_hidden_states=True)
            seen["embedding"].append(result.hidden_states[0])
            seen["logits"].append(result.logits)
    for handle in handles:
        handle.remove()
    return {
        name: torch.cat([each.reshape(-1, each.shape[-1]) for each in values]).double()
        for name, values in seen.items()
    }


def sublayers_of(model):
    """By our names; the final norm, and its map with fixed statistics."""
    if hasattr(model, "transformer"):
        layers, norm, is_centred = model.transformer.h, model.transformer.ln_f, True
        pairs = [(layer.attn, layer.mlp) for layer in layers]
    else:
        layers, norm, is_centred = model.model.layers, model.model.norm, False
        pairs = [(layer.self_attn, layer.mlp) for layer in layers]
    modules = {}
    for number, (attention, mlp) in enumerate(pairs):
        modules |= {
            f"transformer.layers.{number}.attention": attention,
            f"transformer.layers.{number}.mlp": mlp,
        }
    return modules, norm, is_centred


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "LlamaForCausalLM"])
def test_decomposition_and_attribution_are_torch_s(models, tmp_path, name):
    """Every sublayer's output by hooks, and in torch float64 what each adds to two tokens' logits."""
    import torch

    from trtllm_ext.analysis.capture.capture import capture
    from trtllm_ext.analysis.decomposition.direct_effects import Questions, examine
    from trtllm_ext.analysis.decomposition.lens_sources import lens_of_model
    from trtllm_ext.analysis.running.engines import tapped_engine, weights_of
    from trtllm_ext.checkpoint import convert

    folder, model = models(name)
    captured = capture(str(folder), TEXTS)
    convert(folder, tmp_path / "checkpoint", attention_input=True)
    questions = Questions(lens_of_model(str(folder)), TARGETS, top=3)
    with tapped_engine(checkpoint_dir=tmp_path / "checkpoint") as engine:
        weights = weights_of(engine, tmp_path / "checkpoint")
        found = examine(
            engine, weights, captured.inputs(), questions=questions, embeddings=captured.embeddings
        )

    modules, norm, is_centred = sublayers_of(model)
    wanted = watched(model, modules)
    run, effects = found.result.run, dict(zip(found.attribution.names, found.attribution.values, strict=True))
    size = wanted["embedding"].abs().max().item()
    assert np.abs(captured.hidden_states - wanted["embedding"].numpy()).max() <= CLOSE * size
    for part in modules:
        assert (
            np.abs(run.contribution[part] - wanted[part].numpy()).max() <= CLOSE * wanted[part].abs().max()
        ), part

    stream = wanted["embedding"] + sum(wanted[part] for part in modules)
    centred = stream - stream.mean(-1, keepdim=True) if is_centred else stream
    eps = norm.eps if is_centred else norm.variance_epsilon
    deviation = ((centred**2).mean(-1, keepdim=True) + eps).sqrt()
    unembedding = model.lm_head.weight.double()[list(TARGETS)]
    logits = wanted["logits"][:, list(TARGETS)].detach().numpy()
    scale = np.abs(logits).max()
    assert np.abs(found.attribution.logits - logits).max() <= CLOSE * scale
    assert np.abs(found.attribution.values.sum(0) - logits).max() <= CLOSE * scale

    def effect(part):
        part = part - part.mean(-1, keepdim=True) if is_centred else part
        return ((part / deviation * norm.weight.double()) @ unembedding.T).detach().numpy()

    tables = {"transformer.wte": [id for text in TEXTS for id in text]} if is_centred else {}
    if is_centred:
        tables["transformer.wpe"] = [place for text in TEXTS for place in range(len(text))]
    assert list(captured.embeddings) == list(tables)
    for table, rows in tables.items():
        values = model.get_submodule(table).weight.double()[rows]
        assert np.abs(effects[table] - effect(values)).max() <= CLOSE * scale, table
    told = sum(effects[table] for table in tables) + effects["hidden_states"]
    assert np.abs(told - effect(wanted["embedding"])).max() <= CLOSE * scale
    for part in modules:
        ours = effects[part] + effects.get(f"{part}.proj.bias", 0.0)
        assert np.abs(ours - effect(wanted[part])).max() <= CLOSE * scale, part

    # The lens: the final norm with each stream's own statistics.
    after = wanted["embedding"]
    for part in modules:
        after = after + wanted[part]
        with torch.no_grad():
            scores = model.lm_head(norm(after.float())).softmax(-1)
        best = scores.topk(3)
        np.testing.assert_array_equal(found.top[part].ids, best.indices.numpy())
        np.testing.assert_allclose(found.top[part].probabilities, best.values.numpy(), rtol=0, atol=CLOSE)


def test_decomposition_is_transformer_lens_s(models, tmp_path):
    """TransformerLens up to 3, which has its own implementation of GPT-2; it is no dependency of ours."""
    lens = pytest.importorskip("transformer_lens", reason="transformer-lens is not installed")
    if not lens.__dict__.get("HookedTransformer"):
        pytest.skip("this transformer-lens has no HookedTransformer; install one below 4")
    import torch
    from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights

    from trtllm_ext.analysis.capture.capture import capture
    from trtllm_ext.analysis.decomposition.direct_effects import Questions, examine
    from trtllm_ext.analysis.decomposition.lens_sources import lens_of_model
    from trtllm_ext.analysis.running.engines import tapped_engine, weights_of
    from trtllm_ext.checkpoint import convert

    folder, model = models("GPT2LMHeadModel")
    config = lens.HookedTransformerConfig(
        n_layers=LAYERS,
        d_model=HIDDEN,
        n_ctx=40,
        d_head=HIDDEN // 4,
        n_heads=4,
        d_mlp=4 * HIDDEN,
        d_vocab=VOCAB,
        act_fn="gelu_new",
        normalization_type="LN",
        eps=1e-5,
        device="cpu",
    )
    other = lens.HookedTransformer(config)
    other.load_state_dict(convert_gpt2_weights(model, config), strict=False)
    _, cache_ = other.run_with_cache(torch.tensor([TEXTS[0]]))
    parts, labels = cache_.decompose_resid(layer=-1, return_labels=True)
    normed = cache_.apply_ln_to_stack(parts, layer=-1) * other.ln_final.w
    theirs = dict(zip(labels, (normed @ other.W_U[:, TARGETS])[:, 0].detach().numpy(), strict=True))
    theirs["hidden_states"] = theirs.pop("embed") + theirs.pop("pos_embed")

    convert(folder, tmp_path / "checkpoint", attention_input=True)
    captured = capture(str(folder), TEXTS[:1])
    with tapped_engine(checkpoint_dir=tmp_path / "checkpoint") as engine:
        questions = Questions(lens_of_model(str(folder)), TARGETS)
        weights = weights_of(engine, tmp_path / "checkpoint")
        found = examine(engine, weights, captured.inputs(), questions=questions).attribution
    ours = dict(zip(found.names, found.values, strict=True))
    names = {"hidden_states": "hidden_states"}
    for layer in range(LAYERS):
        names[f"{layer}_attn_out"] = f"transformer.layers.{layer}.attention"
        names[f"{layer}_mlp_out"] = f"transformer.layers.{layer}.mlp"
    assert set(names) == set(theirs)
    for label, name in names.items():
        effect = ours[name] + ours.get(f"{name}.proj.bias", 0.0)
        assert np.abs(effect - theirs[label]).max() <= CLOSE * np.abs(found.logits).max(), label


REFUSED = {
    "OpenAIGPTLMHeadModel": "attention_input adds to the stream",
    "BertModel": r"converted as a whole encoder, attention included: nothing has to be captured",
    "T5ForConditionalGeneration": "has an encoder and a decoder",
    "ViTModel": "has no vocabulary",
}


@pytest.mark.parametrize("name", REFUSED)
def test_models_of_other_forms_are_refused_by_name(models, name):
    from trtllm_ext.analysis.capture.capture import capture
    from trtllm_ext.errors import CheckpointError

    with pytest.raises(CheckpointError, match=REFUSED[name]):
        capture(str(models(name)[0]), TEXTS)


def test_texts_that_do_not_fit_are_refused(models):
    from trtllm_ext.analysis.capture.capture import capture
    from trtllm_ext.errors import InputError

    folder = str(models("GPT2LMHeadModel")[0])
    with pytest.raises(InputError, match=r"text 2 has 41 tokens; .* has positions for 40"):
        capture(folder, [[1], [1] * 41])
    with pytest.raises(InputError, match=r"text 1 has the token id 64; .* ids 0 to 63"):
        capture(folder, [[1, 64]])
    with pytest.raises(InputError, match="there is no text"):
        capture(folder, [])


def test_nan_in_the_stream_is_refused_by_the_text(models, tmp_path):
    from trtllm_ext.analysis.capture.capture import capture
    from trtllm_ext.errors import CheckpointError

    _, model = models("GPT2LMHeadModel")
    broken = deepcopy(model)
    broken.transformer.wte.weight.data[41, 0] = np.nan
    broken.save_pretrained(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"text 2 makes NaN or infinity of .*'s stream \(hidden_states\)"
    ):
        capture(str(tmp_path), TEXTS)


def test_the_commands_from_text_to_report(models, tmp_path, capsys):
    from small_encoder import word_tokenizer

    from trtllm_ext.cli.main import main

    folder = str(models("LlamaForCausalLM")[0])
    (models("LlamaForCausalLM")[0] / "tokenizer.json").write_text(json.dumps(word_tokenizer()))
    inputs, checkpoint = str(tmp_path / "x.npz"), str(tmp_path / "checkpoint")
    assert main(["stream", "capture", "--model_dir", folder, "--text", "w3 w5 w9", "--output", inputs]) == 0
    assert "The engine's stream ends within" in capsys.readouterr().out.replace("\n", " ")
    assert json.loads((tmp_path / "x.json").read_text())["tokens"] == ["[CLS]", "w3", "w5", "w9", "[SEP]"]
    assert main(["convert", "--model_dir", folder, "--output_dir", checkpoint, "--attention_input"]) == 0
    command = [
        "stream",
        "decompose",
        "--checkpoint_dir",
        checkpoint,
        "--input",
        inputs,
        "--model_dir",
        folder,
    ]
    assert main([*command, "--tokens", "w3,w7", "--output_dir", str(tmp_path / "report")]) == 0
    assert "After the last token:" in capsys.readouterr().out
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Direct logit attribution" in page
    assert "w7" in page
    assert main([*command, "--tokens", "w3 w7", "--output_dir", str(tmp_path / "other")]) != 0
    assert "'w3 w7' is 2 tokens" in capsys.readouterr().err.replace("\n", " ")
