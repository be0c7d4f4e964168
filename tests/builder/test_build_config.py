"""BuildConfig as data, and the limits that a model gets from it."""

import json

import pytest

from trtllm_ext.builder.build_config import SETTINGS, BuildConfig
from trtllm_ext.builder.limits import prepare_inputs_arguments, resolve_limits
from trtllm_ext.errors import ConfigError

BUDGET_S = 2

# Defaults of trtllm-build that its users count on.
DEFAULTS = {
    "max_batch_size": 2048,
    "opt_batch_size": 8,
    "max_input_len": 1024,
    "max_seq_len": None,
    "max_beam_width": 1,
    "max_num_tokens": 8192,
    "opt_num_tokens": None,
    "strongly_typed": True,
    "profiling_verbosity": "layer_names_only",
    "output_timing_cache": "model.cache",
}


def test_defaults_are_those_of_trtllm_build():
    config = BuildConfig().to_dict()
    assert {name: config[name] for name in DEFAULTS} == DEFAULTS


def test_json_round_trip(tmp_path):
    config = BuildConfig(
        max_batch_size=4, opt_batch_size=2, max_num_tokens=96, plugin_config={"gemm_plugin": None}
    )
    path = tmp_path / "build.json"
    path.write_text(json.dumps(config.to_dict()))
    again = BuildConfig.from_json_file(path)
    assert again == config
    assert again.to_dict() == config.to_dict()
    assert set(config.to_dict()) == set(SETTINGS)


def test_a_whole_file_of_trtllm_build_is_read():
    """A file that lists every setting at its default asks for nothing special."""
    config = BuildConfig.from_dict(
        {
            **BuildConfig().to_dict(),
            "plugin_config": {
                "gpt_attention_plugin": "auto",
                "gemm_plugin": None,
                "remove_input_padding": True,
            },
        }
    )
    assert config.given == {"plugin_config"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_batchsize": 8}, "unknown build config key 'max_batchsize'. Did you mean max_batch_size"),
        ({"zebra": 8}, "unknown build config key 'zebra'. Known: "),
        ({"max_batch_size": "8"}, "max_batch_size='8' is a text, expected a whole number"),
        ({"max_batch_size": 8.0}, "max_batch_size=8.0 is a float, expected a whole number"),
        ({"max_batch_size": True}, "max_batch_size=True is true or false, expected a whole number"),
        ({"strongly_typed": 1}, "strongly_typed=1 is a whole number, expected true or false"),
        ({"max_batch_size": 0}, "max_batch_size=0 is too small; it must be at least 1"),
        ({"max_num_tokens": 1 << 31}, "max_num_tokens=2147483648 is too large"),
        ({"opt_num_tokens": 9, "max_num_tokens": 8}, "opt_num_tokens=9 is greater than max_num_tokens=8"),
        ({"opt_batch_size": 9, "max_batch_size": 8}, "opt_batch_size=9 is greater than max_batch_size=8"),
        ({"max_input_len": 65, "max_seq_len": 64}, "max_input_len=65 is greater than max_seq_len=64"),
        (
            {"profiling_verbosity": "loud"},
            "profiling_verbosity='loud' is not known; it is one of layer_names_only",
        ),
        ({"kv_cache_type": "paged"}, "kv_cache_type='paged' is a setting for decoders"),
        ({"max_beam_width": 4}, "max_beam_width=4 is a setting for decoders"),
        (
            {"weight_streaming": True, "strongly_typed": False},
            "streams weights of strongly typed networks only",
        ),
        (
            {"builder_optimization_level": 6},
            "builder_optimization_level=6 is out of range; TensorRT has levels 0",
        ),
        ({"builder_optimization_level": "high"}, "is a text, expected a whole number or null"),
        (
            {"hardware_compatibility_level": "AMPERE_PLUS"},
            "hardware_compatibility_level='AMPERE_PLUS' is not known; it is one of none, ampere_plus",
        ),
        ({"memory_pool_limits": {"workspce": 1}}, "'workspce' is no memory pool. Did you mean workspace"),
        ({"memory_pool_limits": {"workspace": "1Gib"}}, "workspace='1Gib' is a text, expected bytes"),
        ({"memory_pool_limits": {"workspace": True}}, "workspace=True is true or false, expected bytes"),
        ({"memory_pool_limits": {"workspace": -1}}, "workspace=-1 is out of range"),
        (
            {"monitor_memory": True},
            "monitor_memory=True is not offered by this package. Leave it out, and measure",
        ),
        (
            {"visualize_network": "out"},
            "visualize_network='out' is not offered by this package. Leave it out;",
        ),
        (
            {"plugin_config": {"gemm_plugins": None}},
            "unknown plugin_config key 'gemm_plugins'. Did you mean gemm_plugin",
        ),
        ({"plugin_config": {"gemm_plugin": "float16"}}, "gemm_plugin='float16' asks for a plugin"),
    ],
)
def test_what_is_refused(values, message):
    with pytest.raises(ConfigError) as caught:
        BuildConfig.from_dict(values)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ("[1]", "holds a JSON list, expected an object"),
        ('{"max_batch_size": 1, "max_batch_size": 2}', "the key 'max_batch_size' appears twice"),
        ('{"max_batch_size": NaN}', "NaN is not a JSON number"),
        ('{"max_bath_size": 1}', "build.json: unknown build config key 'max_bath_size'"),
    ],
)
def test_files_that_are_refused(tmp_path, text, message):
    path = tmp_path / "build.json"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        BuildConfig.from_json_file(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_it_cannot_be_changed_by_accident():
    config = BuildConfig()
    with pytest.raises(AttributeError):
        config.max_batch_size = 4
    assert config.updated(max_batch_size=4).max_batch_size == 4
    assert config.max_batch_size == 2048
    with pytest.raises(ConfigError, match="Did you mean max_batch_size"):
        config.updated(max_batchsize=4)


def test_open_limits_are_filled_in_as_trtllm_build_does():
    packed = resolve_limits(BuildConfig(max_num_tokens=512), used={"max_num_tokens", "opt_num_tokens"})
    assert packed.opt_num_tokens == 512
    padded = resolve_limits(
        BuildConfig(max_batch_size=4),
        used={"max_batch_size", "opt_batch_size", "max_input_len"},
        max_position_embeddings=512,
    )
    assert (padded.opt_batch_size, padded.max_input_len, padded.max_seq_len) == (4, 512, 512)


@pytest.mark.parametrize(
    ("config", "used", "message"),
    [
        (
            BuildConfig(max_batch_size=4),
            {"max_num_tokens", "opt_num_tokens"},
            "max_batch_size=4 counts sequences, which the model has no use for: it takes tokens packed",
        ),
        (
            BuildConfig(max_num_tokens=64),
            {"max_batch_size", "opt_batch_size", "max_input_len"},
            "max_num_tokens=64 counts packed tokens, which the model has no use for: it takes padded sequences",
        ),
        # Named on purpose, though the value is the default.
        (
            BuildConfig().updated(max_input_len=1024),
            {"max_num_tokens"},
            "max_input_len=1024 is the length of one",
        ),
        (
            BuildConfig(max_input_len=513),
            {"max_batch_size", "max_input_len"},
            "max_input_len=513 is more than the 512 positions that the model was trained with",
        ),
    ],
)
def test_a_limit_without_use_is_refused_with_the_reason(config, used, message):
    with pytest.raises(ConfigError) as caught:
        resolve_limits(config, used=used, max_position_embeddings=512)
    assert message in str(caught.value)


def test_limits_of_a_file_without_use_are_left_out(tmp_path, caplog):
    """One line says so. Of the same limits, those given besides are refused."""
    limits = {"max_batch_size": 256, "max_seq_len": 4096, "max_input_len": 2048, "max_num_tokens": 64}
    path = tmp_path / "build.json"
    path.write_text(json.dumps({**limits, "opt_batch_size": 16}))
    config = BuildConfig.from_json_file(path).updated(deterministic=True)
    with caplog.at_level("INFO", "trtllm_ext"):
        packed = resolve_limits(config, used={"max_num_tokens", "opt_num_tokens"}, model="the SublayerStack")
    (told,) = caplog.messages
    assert told == (
        "the SublayerStack has no use for these limits of the build config's file: max_batch_size=256, "
        "max_input_len=2048, max_seq_len=4096, opt_batch_size=16."
    )
    assert packed == BuildConfig(max_num_tokens=64, opt_num_tokens=64, deterministic=True)
    with pytest.raises(ConfigError, match=r"max_batch_size=256 counts sequences.*Leave it out"):
        resolve_limits(config.updated(max_batch_size=256), used={"max_num_tokens", "opt_num_tokens"})
    padded = resolve_limits(config, used={"max_batch_size", "opt_batch_size", "max_input_len"})
    assert (padded.max_batch_size, padded.max_input_len, padded.max_num_tokens) == (256, 2048, 8192)


def test_all_that_is_not_offered_is_told_at_once():
    values = {"kv_cache_type": "paged", "monitor_memory": True}
    plugins = {"gemm_plugin": "float16", "gemm_plugins": None, "moe_plugin": "auto"}
    with pytest.raises(ConfigError) as caught:
        BuildConfig.from_dict({**values, "plugin_config": plugins})
    for name in ("kv_cache_type='paged'", "monitor_memory=True", "gemm_plugin='float16'", "'gemm_plugins'"):
        assert name in str(caught.value)
    assert "moe_plugin" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"'max_batch_sise'.*'max_sek_len'"):
        BuildConfig.from_dict({"max_batch_sise": 1, "max_sek_len": 2})


def test_a_model_gets_the_arguments_that_it_takes():
    def some(max_batch_size, max_input_len):
        return None

    def every(**kwargs):
        return None

    config = BuildConfig(max_batch_size=3)
    assert prepare_inputs_arguments(config, some) == {"max_batch_size": 3, "max_input_len": 1024}
    assert {"max_num_tokens", "max_beam_width", "use_cache"} <= set(prepare_inputs_arguments(config, every))
