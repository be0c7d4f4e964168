"""The MLPs of TensorRT-LLM's models, replaced by our sublayers: the same parameters, the same numbers."""

import copy
from collections import OrderedDict

import numpy as np
import pytest
from tensorrt_llm import Builder, Module, Tensor, net_guard
from tensorrt_llm.layers import MLP, FusedGatedMLP, GatedMLP
from tensorrt_llm.models import GPTForCausalLM, LLaMAForCausalLM
from tensorrt_llm.models.gpt.config import GPTConfig
from tensorrt_llm.models.llama.config import LLaMAConfig

import trtllm_ext as tx
from trtllm_ext.errors import ConfigError
from trtllm_ext.layers import FeedForward, GatedFeedForward
from trtllm_ext.tensorrt_llm import replace_mlps
from trtllm_ext.tensorrt_llm.mlps import ACTIVATIONS, same_form

HIDDEN, FFN = 16, 24
SIZES = {
    "dtype": "float32",
    "hidden_size": HIDDEN,
    "intermediate_size": FFN,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 32,
    "max_position_embeddings": 16,
}


class Holder(Module):
    def __init__(self, mlp):
        super().__init__()
        self.mlp = mlp

    def forward(self, x):
        return self.mlp(x)


class AttentionWithoutPlugin(Module):
    """In an attention's place, which needs a compiled plugin."""

    def forward(self, hidden_states, **others):
        return hidden_states * 0.5


def filled(model, seed=0):
    generator = np.random.default_rng(seed)
    for _, parameter in sorted(model.named_parameters()):
        parameter.value = generator.normal(0, 0.3, parameter.shape).astype(np.float32)
    return model


def run(forward):
    builder = Builder()
    network = builder.create_network()
    network.plugin_config.to_legacy_setting()
    with net_guard(network):
        ranges = OrderedDict([("num_tokens", [[1, 4, 8]]), ("hidden", [HIDDEN])])
        x = Tensor(name="x", dtype="float32", shape=[-1, HIDDEN], dim_range=ranges)
        forward(x).mark_output("y", "float32")
    engine = builder.build_engine(network, builder.create_builder_config(precision="float32"))
    x = np.random.default_rng(5).normal(size=(7, HIDDEN)).astype(np.float32)
    with tx.Session.from_serialized_engine(engine) as session:
        return session.run({"x": x})["y"]


def same_before_and_after(model, forward, names):
    before = run(forward)
    parameters = {name: id(parameter) for name, parameter in model.named_parameters()}
    assert replace_mlps(model) == names
    assert {name: id(parameter) for name, parameter in model.named_parameters()} == parameters
    after = run(forward)
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5 * np.abs(before).max())
    # A weight of the first matrix has an effect, so what was replaced is what was run.
    name = next(name for name in parameters if "mlp" in name and name.endswith("weight"))
    dict(model.named_parameters())[name].value = np.zeros(
        dict(model.named_parameters())[name].shape, np.float32
    )
    assert np.abs(run(forward) - before).max() > 1e-3


KINDS = [
    *[(MLP, name) for name in ("relu", "gelu", "silu", "squared-relu", "tanh", "identity", "swiglu")],
    *[(GatedMLP, name) for name in ("silu", "gelu_pytorch_tanh", "relu")],
    *[(FusedGatedMLP, name) for name in ("silu", "gelu")],
]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("inner_layernorm", [False, True])
@pytest.mark.parametrize(("kind", "act"), KINDS)
def test_every_form_computes_the_same(kind, act, inner_layernorm, bias):
    mlp = kind(HIDDEN, FFN, act, bias=bias, dtype="float32", inner_layernorm=inner_layernorm, eps=1e-3)
    model = filled(Holder(mlp))
    same_before_and_after(model, model, ["mlp"])
    ours = {MLP: FeedForward, GatedMLP: GatedFeedForward}.get(kind, Module)
    assert act == "swiglu" or isinstance(model.mlp, ours)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (LLaMAForCausalLM, LLaMAConfig(architecture="LlamaForCausalLM", hidden_act="silu", **SIZES)),
        (GPTForCausalLM, GPTConfig(architecture="GPTForCausalLM", hidden_act="gelu", **SIZES)),
    ],
)
def test_a_decoder_of_its_models(kind, config):
    model = filled(kind(config))
    layers = list(model.transformer.layers)
    for layer in layers:
        layer._modules["attention"] = AttentionWithoutPlugin()

    def forward(x):
        for layer in layers:
            x = layer(x)
        return x

    same_before_and_after(model, forward, ["transformer.layers.0.mlp", "transformer.layers.1.mlp"])


def test_an_mlp_in_two_places_is_replaced_in_both():
    model = Module()
    model.first = Holder(MLP(HIDDEN, FFN, "relu", dtype="float32"))
    model.second = Holder(model.first.mlp)
    filled(model)
    same_before_and_after(model, lambda x: model.second(model.first(x) * 0.1), ["first.mlp", "second.mlp"])
    assert type(model.second.mlp) is not MLP and model.second.mlp is model.first.mlp


def test_its_checkpoint_loads_after_the_replacement(tmp_path):
    config = LLaMAConfig(architecture="LlamaForCausalLM", hidden_act="silu", **SIZES)
    model = filled(LLaMAForCausalLM(config))
    model.save_checkpoint(str(tmp_path))
    other = LLaMAForCausalLM(config)
    replace_mlps(other)
    import safetensors.torch

    other.load(safetensors.torch.load_file(tmp_path / "rank0.safetensors"))
    for (name, one), (_, two) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        np.testing.assert_array_equal(one.raw_value, two.raw_value, err_msg=name)


def test_its_build_takes_the_model_so_far_as_its_attention():
    """What stops it then is the attention's plugin, which is compiled."""
    from tensorrt_llm.builder import BuildConfig, build

    config = LLaMAConfig(architecture="LlamaForCausalLM", hidden_act="silu", **SIZES)
    model = filled(LLaMAForCausalLM(config))
    replace_mlps(model)
    settings = BuildConfig(
        max_input_len=8, max_seq_len=16, max_batch_size=2, max_beam_width=1, max_num_tokens=16
    )
    with pytest.raises(AssertionError) as stopped:
        build(model, settings)
    assert "gpt_attention" in str(stopped.getrepr(style="short"))


def test_make_chooses_the_module():
    model = filled(Holder(GatedMLP(HIDDEN, FFN, "silu", bias=False, dtype="float32")))
    made = []

    def make(mlp):
        made.append(mlp)
        return same_form(mlp)

    replace_mlps(model, make)
    assert [type(each) for each in made] == [GatedMLP]
    plain = filled(Holder(GatedMLP(HIDDEN, FFN, "silu", bias=False, dtype="float32")))
    with pytest.raises(
        ConfigError, match=r"mlp, a GatedMLP, cannot be replaced: parameter fc.weight is \(24, 16\)"
    ):
        replace_mlps(plain, lambda mlp: GatedFeedForward(HIDDEN, 2 * FFN, bias=False))
    with pytest.raises(ConfigError, match="`make` gave a NoneType"):
        replace_mlps(plain, lambda mlp: None)
    assert type(plain.mlp) is GatedMLP


def refused():
    from tensorrt_llm.quantization import QuantAlgo, QuantMode
    from tensorrt_llm.quantization.layers import Fp8RowwiseMLP
    from tensorrt_llm.quantization.quantize import FP8Linear

    def mlp(act="relu", **more):
        return MLP(HIDDEN, FFN, act, dtype="float32", **more)

    fp8, lora = mlp(), mlp()
    fp8.fc = FP8Linear(HIDDEN, FFN, dtype="float32")
    lora.lora = Module()
    yield fp8, "its fc is a FP8Linear"
    yield lora, "LoRA is not part"
    yield mlp(quant_mode=QuantMode.from_description(True, True)), "it is quantised"
    yield mlp("gegelu"), "hidden_act='gegelu'"
    yield mlp("softplus"), "hidden_act='softplus'"
    yield mlp(is_expert=True), "expert of a mixture"
    yield mlp(inner_layernorm=True, tp_size=2, tp_group=[0, 1]), "inner_layernorm with tp_size=2"
    rowwise = QuantMode.from_quant_algo(QuantAlgo.FP8_PER_CHANNEL_PER_TOKEN)
    yield (
        Fp8RowwiseMLP(HIDDEN, FFN, "relu", dtype="float32", quant_mode=rowwise),
        "second.mlp, a Fp8RowwiseMLP",
    )


def test_what_cannot_be_expressed_is_refused_before_anything_is_replaced():
    for mlp, reason in refused():
        model = Module()
        model.first = Holder(MLP(HIDDEN, FFN, "relu", dtype="float32"))
        model.second = Holder(mlp)
        with pytest.raises(ConfigError, match=reason):
            replace_mlps(model)
        assert model.second.mlp is mlp and type(model.first.mlp) is MLP
    empty = Module()
    empty.one = Module()
    with pytest.raises(ConfigError, match="there is nothing to replace"):
        replace_mlps(empty)


def test_lora_at_a_call_is_refused():
    model = filled(Holder(GatedMLP(HIDDEN, FFN, "silu", bias=False, dtype="float32")))
    replace_mlps(model)
    with pytest.raises(ConfigError, match="LoRA is not part"):
        run(lambda x: model.mlp(x, lora_layer_params=object()))


def test_every_activation_is_known_or_refused():
    from tensorrt_llm.functional import ACT2FN

    refused = set(copy.copy(list(ACT2FN))) - set(ACTIVATIONS)
    assert refused == {"geglu", "gegelu", "softplus", "swiglu", "fast-swiglu"}
