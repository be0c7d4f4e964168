"""Models on TensorRT 8.6, 10.14 and 11.4: every call is in the release's bindings, and the numbers stay the same."""

from dataclasses import replace

import numpy as np
import pytest
from dressed_tensorrt import dressed, recorded
from encoder_formulas import sentences, small_config
from sampling import thinned
from stack_forms import TABLE, checkpoint, config_of, random_input
from tensorrt_surface import Surface, releases

import trtllm_ext as tx
from trtllm_ext.builder.trace import trace
from trtllm_ext.errors import GraphError
from trtllm_ext.models import model_from_checkpoint, write_random_checkpoint

BUDGET_S = 8

pytestmark = pytest.mark.usefixtures("one_thread")

OLD, TEN, NEW = releases()
FEED_FORWARD = ("bert", "gpt2", "llama_swiglu", "geglu_tanh", "inner_norm")
RESIDUALS = ("every factor", "wide sandwich", "neox_parallel_two_norms", "t5_clamped")
MIXTURES = ("mixture_softmax_shared",)
STREAMS = ("hyper_dynamic",)


def computed(path, inputs, **settings):
    """All outputs of the engine of a checkpoint, by name."""
    engine = tx.build(model_from_checkpoint(path), tx.BuildConfig(**settings)).engine
    with tx.Session.from_serialized_engine(engine) as session:
        return {name: np.array(value) for name, value in session.run(inputs).items()}


def assert_same_on_all(run, tolerance, chosen=(OLD, TEN, NEW)):
    """That `run()` gives on each release what it gives without a dress; returns the uses of the last release."""
    with recorded():
        expected = run()
    for release in chosen:
        with dressed(release, "tensorrt") as dress:
            found = run()
        assert found.keys() == expected.keys(), release
        for name, value in expected.items():
            scale = max(float(np.abs(value.astype(np.float64)).max()), 1e-30)
            difference = np.abs(found[name].astype(np.float64) - value.astype(np.float64)).max()
            assert difference <= tolerance * scale, (release, name)
    return dress.uses


def small(name, dtype="float32"):
    """One layer of a form. What is called is the same for two experts as for more."""
    form = TABLE[name]
    if form.mixture:
        form = replace(form, mixture=replace(form.mixture, num_experts=2, top_k=1))
    return config_of(form, dtype, layers=1)


def check_form(tmp_path, name, dtype="float32", **more):
    config = small(name, dtype)
    checkpoint(tmp_path, config)
    inputs = {"hidden_states": random_input(config)}
    return assert_same_on_all(lambda: computed(tmp_path, inputs, max_num_tokens=32), **more)


@pytest.mark.parametrize("name", thinned(FEED_FORWARD, every=2))
def test_feed_forward(tmp_path, name):
    check_form(tmp_path, name, tolerance=1e-6)


@pytest.mark.parametrize("name", RESIDUALS)
def test_residuals(tmp_path, name):
    check_form(tmp_path, name, tolerance=1e-6)


@pytest.mark.parametrize("name", MIXTURES)
def test_mixtures(tmp_path, name):
    check_form(tmp_path, name, tolerance=1e-6)


@pytest.mark.parametrize("name", STREAMS)
def test_hyper_connections(tmp_path, name):
    check_form(tmp_path, name, tolerance=1e-6)


def test_float16(tmp_path):
    # 8.6 has no type for the network to follow: the layers are told theirs.
    check_form(tmp_path, "bert", "float16", tolerance=2e-3)


def test_a_shared_experts_gate_in_float16(tmp_path):
    """8.6 refuses a float32 SIGMOID in a float16 network, so there the gate has none; elsewhere it stays."""
    check_form(tmp_path, "plain experts", "float16", tolerance=2e-3, chosen=(OLD,))
    for release, dtype, kinds in (
        (OLD, "float16", {"TANH"}),
        (OLD, "float32", {"SIGMOID"}),
        (TEN, "float16", {"SIGMOID"}),
    ):
        checkpoint(tmp_path, small("plain experts", dtype))
        with dressed(release, "tensorrt"):
            network = trace(model_from_checkpoint(tmp_path), tx.BuildConfig(max_num_tokens=32)).network
        names = [each.name for each in network.get_layers() if "/mlp/" in each.name]
        gates = [name for name in names if "/_shared_L" in name and "/activation_L" in name]
        assert {
            name.split("/")[-1].rpartition("_")[0] for name in gates if "/shared_expert/" not in name
        } == kinds


def test_bfloat16(tmp_path):
    uses = check_form(tmp_path, "llama_swiglu", "bfloat16", tolerance=1e-2, chosen=(TEN, NEW))
    assert any(
        use.what == "call" and use.owner == "Weights" and len(use.given.positional) == 3 for use in uses
    )
    with dressed(OLD, "tensorrt"), pytest.raises(GraphError, match=r"TensorRT 8\.6\.1 has no type BF16"):
        computed(tmp_path, {}, max_num_tokens=32)


def test_encoder(tmp_path):
    write_random_checkpoint(tmp_path, replace(small_config(), num_hidden_layers=1), seed=1)
    limits = {"max_batch_size": 4, "max_input_len": 16}
    assert_same_on_all(lambda: computed(tmp_path, sentences(), **limits), tolerance=2e-6)


def test_taps(tmp_path):
    config = small("gemma2_sandwich")
    checkpoint(tmp_path, config)
    inputs = {"hidden_states": random_input(config)}
    assert_same_on_all(lambda: computed(tmp_path, inputs, max_num_tokens=32, taps=["*"]), tolerance=1e-6)


def test_nothing_deprecated_is_called(tmp_path):
    config = small("every factor")
    checkpoint(tmp_path, config)
    for release in releases():
        surface = Surface(release)
        with dressed(release, "tensorrt") as dress:
            computed(tmp_path, {"hidden_states": random_input(config)}, max_num_tokens=32)
        members = {use: surface.member(use.owner, use.name) for use in dress.uses if use.owner}
        assert [str(use) for use, member in members.items() if member and member.deprecated] == []
        assert len({(use.what, use.owner, use.name, use.given) for use in dress.uses}) > 100
