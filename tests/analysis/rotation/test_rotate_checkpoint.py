"""A rotated checkpoint computes what the original does, in float64 and as an engine; what cannot be is refused."""

from dataclasses import replace

import numpy as np
import pytest
from stack_forms import (
    HIDDEN,
    LAYER,
    RMS,
    SHARED,
    TABLE,
    checkpoint,
    config_of,
    plain,
    random_input,
    residual,
    run,
)
from sublayer_formulas import assert_close

from trtllm_ext.analysis.rotation import (
    load_transform,
    make_rotation,
    rotate_checkpoint,
    rotated_in_memory,
)
from trtllm_ext.builder import BuildConfig, build_engine_dir
from trtllm_ext.checkpoint import load_checkpoint, load_whole, write_checkpoint
from trtllm_ext.errors import CheckpointError, ConfigError
from trtllm_ext.parallel import Mapping
from trtllm_ext.verify.formulas import evaluate, points_of

BUDGET_S = 5

EXACT = 1e-10
# What multiplies channels one by one where no matrix follows, and hyper-connections.
REFUSED = {
    **dict.fromkeys(["relu_post_norm", "bert", "deepnorm", "identity", "wide post"], "placement 'post'"),
    **dict.fromkeys(["olmo2_branch"], "placement 'branch'"),
    **dict.fromkeys(["gemma2_sandwich", "wide sandwich"], "second norm of mlp"),
    **dict.fromkeys(["layer_scale", "every factor"], "LayerScale"),
    **dict.fromkeys(
        ["hyper_static", "hyper_dynamic", "hyper_manifold", "wide streams", "gated streams", "one stream"],
        "hyper-connections",
    ),
    "few iterations": "hyper-connections",
}


def takes_attention(form):
    block = form.residual
    return block.placement != "post" and block.skip_scale == 1 and block.hyper_connections is None


def inputs_of(config):
    given = {"hidden_states": random_input(config).astype(np.float64)}
    if config.contract.attention_input:
        given["attention_output"] = np.stack([random_input(config, seed=5), random_input(config, seed=6)])
    return given


def evaluated(config, weights, inputs, name="hidden_states_out"):
    return evaluate(points_of(config, weights), inputs).values[name]


def error(got, expected):
    return np.abs(got - expected).max() / np.abs(expected).max()


def centred(x):
    return x - x.mean(-1, keepdims=True)


@pytest.mark.parametrize("way", ["auto", "keep"])
@pytest.mark.parametrize("name", sorted(TABLE.keys() - REFUSED.keys()))
def test_the_rotated_network_is_the_same_in_float64(tmp_path, name, way):
    form = TABLE[name]
    for number, final in enumerate((None, LAYER) if way == "auto" else (RMS,)):
        config = config_of(form, final_norm=final, attention_input=takes_attention(form))
        path = tmp_path / f"{number}"
        weights, inputs = checkpoint(path, config), inputs_of(config)
        rotated, transform = rotated_in_memory(path, layer_norm=way)
        expected = evaluated(config, weights, inputs)
        if transform.centre and final is None:
            expected = centred(expected)
        moved = {key: transform.into(value) for key, value in inputs.items()}
        got = transform.back(evaluated(rotated.config, rotated.weights, moved))
        assert error(got, expected) <= EXACT
        # What was rotated is another network on the same input: the comparison above has something to find.
        assert error(evaluated(rotated.config, rotated.weights, inputs), expected) > 1e-3
        norm = rotated.config.contract.feed_forward.residual.norm
        assert norm is None or not norm.weight


def test_layer_norms_become_rms_norms_of_a_stream_without_its_mean(tmp_path):
    checkpoint(tmp_path / "c", config_of(TABLE["gpt2"], final_norm=LAYER))
    folded, transform = rotated_in_memory(tmp_path / "c")
    contract = folded.config.contract
    assert transform.centre and "less its mean" in folded.config.source
    assert contract.feed_forward.residual.norm.kind == contract.final_norm.kind == "rms_norm"
    kept, transform = rotated_in_memory(tmp_path / "c", layer_norm="keep")
    assert kept.config.contract.final_norm.kind == "layer_norm" and not transform.centre


def test_a_norms_bias_becomes_one_of_what_reads_behind_it(tmp_path):
    form = plain(gated=True, fc_bias=False, residual=residual(norm=LAYER))
    mixed = replace(
        form, mixture=replace(SHARED.mixture, shared_expert_intermediate_size=None, shared_expert_gate=False)
    )
    for name, each in {"plain": form, "mixture": mixed}.items():
        config = config_of(each)
        weights = checkpoint(tmp_path / name, config)
        rotated, transform = rotated_in_memory(tmp_path / name)
        assert rotated.config.contract.feed_forward.fc_bias
        x = random_input(config).astype(np.float64)
        got = transform.back(evaluated(rotated.config, rotated.weights, {"hidden_states": transform.into(x)}))
        assert error(got, centred(evaluated(config, weights, {"hidden_states": x}))) <= EXACT
    assert rotated.config.contract.feed_forward.mixture.router_bias


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_forms_without_the_symmetry_are_refused_with_the_reason(tmp_path, name):
    checkpoint(tmp_path / "c", config_of(TABLE[name]))
    with pytest.raises(ConfigError, match=REFUSED[name]):
        rotate_checkpoint(tmp_path / "c", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_else_breaks_it_is_refused(tmp_path):
    checkpoint(tmp_path / "t5", config_of(TABLE["t5_clamped"], dtype="float16"))
    with pytest.raises(ConfigError, match=r"float16 stream back into range.*--dtype float32"):
        rotate_checkpoint(tmp_path / "t5", tmp_path / "out")
    rotate_checkpoint(tmp_path / "t5", tmp_path / "out", dtype="float32")
    checkpoint(tmp_path / "shared", config_of(replace(SHARED, residual=residual(norm=LAYER))))
    with pytest.raises(ConfigError, match="shared expert's fc and gate, which have none"):
        rotate_checkpoint(tmp_path / "shared", tmp_path / "out2")
    checkpoint(tmp_path / "llama", config_of(TABLE["llama_swiglu"], final_norm=LAYER))
    with pytest.raises(ConfigError, match="is no LayerNorm that the stream is read through"):
        rotate_checkpoint(tmp_path / "llama", tmp_path / "out2", layer_norm="fold")
    with pytest.raises(ConfigError, match="'hadamar' is neither a kind"):
        rotate_checkpoint(tmp_path / "llama", tmp_path / "out2", rotation="hadamar")


def changed(path, target, changes):
    """Write the checkpoint again with all values of some weights set to a number, by the last name but one."""
    stored = load_checkpoint(path)
    values = dict(stored.weights)
    for name, value in values.items():
        if (last := name.split(".")[-2]) in changes:
            values[name] = np.full_like(value, changes[last])
    write_checkpoint(target, stored.config, lambda name, shape: iter([values[name]]))
    return {name: value.astype(np.float64) for name, value in values.items()}


@pytest.mark.parametrize("name", ["olmo2_branch", "gemma2_sandwich", "deepnorm", "layer_scale"])
def test_a_factor_that_is_the_same_for_all_channels_stays(tmp_path, name):
    config = config_of(TABLE[name])
    checkpoint(tmp_path / "c", config)
    even = {"post_layernorm": 0.7, "post_feedforward_layernorm": 0.4, "mlp_scale": 0.3}
    if name == "layer_scale":
        del even["post_layernorm"]
    weights = changed(tmp_path / "c", tmp_path / "even", even)
    rotated, transform = rotated_in_memory(tmp_path / "even", layer_norm="keep")
    x = random_input(config).astype(np.float64)
    got = transform.back(evaluated(rotated.config, rotated.weights, {"hidden_states": transform.into(x)}))
    assert error(got, evaluated(config, weights, {"hidden_states": x})) <= EXACT


BUILT = ("gpt2", "gpt_oss_clamped", "granite_scaled")
OTHERS = [
    pytest.param(name, marks=pytest.mark.long) for name in sorted(TABLE.keys() - REFUSED.keys() - set(BUILT))
]


@pytest.mark.parametrize("name", [*BUILT, *OTHERS])
def test_an_engine_of_the_rotated_checkpoint(tmp_path, name):
    norm = TABLE[name].residual.norm
    config = config_of(
        TABLE[name], final_norm=LAYER if norm is not None and norm.kind == "layer_norm" else RMS
    )
    weights = checkpoint(tmp_path / "c", config)
    rotate_checkpoint(tmp_path / "c", tmp_path / "out", seed=2)
    transform = load_transform(tmp_path / "out")
    x = random_input(config)
    got = transform.back(run(tmp_path / "out", transform.into(x).astype(np.float32)))
    assert_close(got, evaluated(config, weights, {"hidden_states": x}), "float32", factor=4)


def test_ranks_type_and_files_of_the_source_are_kept(tmp_path):
    config = replace(
        config_of(TABLE["llama_swiglu"], dtype="bfloat16"), mapping=Mapping(world_size=2, tp_size=2)
    )
    one = replace(config, mapping=Mapping())
    checkpoint(tmp_path / "one", one)
    stored = load_checkpoint(tmp_path / "one")
    write_checkpoint(tmp_path / "two", config, lambda name, shape: iter([stored.weights[name]]))
    (tmp_path / "two" / "tokenizer.json").write_text("{}")
    for name in ("one", "two"):
        rotate_checkpoint(tmp_path / name, tmp_path / f"{name}.out")
    found, expected = load_whole(tmp_path / "two.out"), load_checkpoint(tmp_path / "one.out")
    assert all(np.array_equal(found.weights[name], expected.weights[name]) for name in expected.weights)
    assert (tmp_path / "two.out" / "rank1.safetensors").is_file()
    assert (tmp_path / "two.out" / "tokenizer.json").read_text() == "{}"
    assert expected.config.dtype == "bfloat16" and "random Hadamard 16" in expected.config.source
    rotate_checkpoint(tmp_path / "one", tmp_path / "wide", dtype="float32")
    wide = load_checkpoint(tmp_path / "wide").weights
    for name, value in expected.weights.items():  # rounded once
        exact = rotated_in_memory(tmp_path / "one")[0].weights[name]
        assert np.array_equal(value, exact.astype(value.dtype)) and np.array_equal(
            wide[name], exact.astype(np.float32)
        )


def test_the_transform_stands_beside_the_engine(tmp_path):
    checkpoint(tmp_path / "c", config_of(TABLE["llama_swiglu"]))
    rotate_checkpoint(tmp_path / "c", tmp_path / "out")
    for _ in range(2):  # the second replaces the first
        build_engine_dir(tmp_path / "out", tmp_path / "engine", BuildConfig(max_num_tokens=16))
    assert np.array_equal(
        load_transform(tmp_path / "engine").rotation, load_transform(tmp_path / "out").rotation
    )


def test_rotated_twice_the_transform_leads_from_the_first_to_the_last(tmp_path):
    config = config_of(TABLE["gpt2"], final_norm=LAYER)
    weights = checkpoint(tmp_path / "c", config)
    rotate_checkpoint(tmp_path / "c", tmp_path / "first", layer_norm="fold")
    rotate_checkpoint(tmp_path / "first", tmp_path / "second", seed=1)
    x = random_input(config)
    transform, stored = load_transform(tmp_path / "second"), load_checkpoint(tmp_path / "second")
    got = transform.back(evaluated(stored.config, stored.weights, {"hidden_states": transform.into(x)}))
    assert error(got, evaluated(config, weights, {"hidden_states": x})) < 1e-5
    with pytest.raises(CheckpointError, match=r"rotation\.safetensors does not exist"):
        load_transform(tmp_path / "c")


def test_a_given_rotation_and_none(tmp_path):
    config = config_of(TABLE["llama_swiglu"])
    checkpoint(tmp_path / "c", config)
    q = make_rotation("orthogonal", HIDDEN, 9).matrix
    np.save(tmp_path / "q.npy", q)
    _, transform = rotated_in_memory(tmp_path / "c", rotation=tmp_path / "q.npy")
    np.testing.assert_allclose(transform.rotation, q, rtol=0, atol=1e-12)
    _, transform = rotated_in_memory(tmp_path / "c", rotation="identity")
    assert np.array_equal(transform.rotation, np.eye(HIDDEN))


def test_an_interrupt_leaves_nothing(tmp_path):
    checkpoint(tmp_path / "c", config_of(TABLE["gpt2"]))

    def interrupt(step, done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rotate_checkpoint(tmp_path / "c", tmp_path / "out", progress=interrupt)
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".out.lock")) == ["c"]


def test_the_checkpoint_that_is_read_is_not_replaced(tmp_path):
    checkpoint(tmp_path / "c", config_of(TABLE["gpt2"]))
    (tmp_path / "link").symlink_to(tmp_path / "c")
    before = {path.name: path.read_bytes() for path in (tmp_path / "c").iterdir()}
    for output in (tmp_path / "c", tmp_path / "link", tmp_path / "c" / ".." / "c"):
        with pytest.raises(ConfigError, match="is what is read, which it would replace"):
            rotate_checkpoint(tmp_path / "c", output)
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "c").iterdir()}
