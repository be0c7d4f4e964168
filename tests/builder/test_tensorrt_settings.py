"""Settings of a build on the IBuilderConfig: each arrives, and one that a release of TensorRT lacks is refused."""

import logging
from dataclasses import replace

import pytest
from dressed_tensorrt import dressed

import trtllm_ext as tx
import trtllm_ext.embedded as trt
from trtllm_ext import backend
from trtllm_ext.builder import tensorrt_settings
from trtllm_ext.builder.build_config import BuildConfig
from trtllm_ext.builder.builder import Builder
from trtllm_ext.errors import ConfigError

BUDGET_S = 3

OLD, TEN, NEW = "8.6.1", "10.14.1.48.post1", "11.4.0.106"


def config_of(**settings):
    """The IBuilderConfig of a build config."""
    asked = BuildConfig(**settings)
    return (
        Builder()
        .create_builder_config(
            precision="float32",
            strongly_typed=asked.strongly_typed,
            deterministic=asked.deterministic,
            **tensorrt_settings.settings_of(asked),
        )
        .trt_builder_config
    )


def flags_of(config):
    return {name for name, flag in trt.BuilderFlag.__members__.items() if config.get_flag(flag)}


def test_nothing_asked_for_leaves_the_defaults():
    config, plain = config_of(), trt.Builder(trt.Logger()).create_builder_config()
    assert config.flags == plain.flags
    assert config.builder_optimization_level == plain.builder_optimization_level == 3
    assert config.hardware_compatibility_level == trt.HardwareCompatibilityLevel.NONE
    assert config.profiling_verbosity == trt.ProfilingVerbosity.LAYER_NAMES_ONLY
    for pool in trt.MemoryPoolType.__members__.values():
        assert config.get_memory_pool_limit(pool) == plain.get_memory_pool_limit(pool)


@pytest.mark.parametrize(
    ("settings", "flags"),
    [
        ({"use_refit": True}, {"REFIT_INDIVIDUAL", "TF32"}),
        ({"use_strip_plan": True}, {"REFIT_INDIVIDUAL", "STRIP_PLAN", "WEIGHTLESS", "TF32"}),
        ({"weight_streaming": True}, {"WEIGHT_STREAMING", "TF32"}),
        ({"weight_sparsity": True}, {"SPARSE_WEIGHTS", "TF32"}),
        ({"version_compatible": True}, {"VERSION_COMPATIBLE", "TF32"}),
        ({"tf32": False}, set()),
        ({"strongly_typed": False}, {"OBEY_PRECISION_CONSTRAINTS", "TF32"}),
    ],
)
def test_flags(settings, flags):
    assert flags_of(config_of(**settings)) == flags


def test_levels_and_pools():
    config = config_of(
        builder_optimization_level=5,
        hardware_compatibility_level="ampere_plus",
        profiling_verbosity="detailed",
        memory_pool_limits={"workspace": 1 << 30, "tactic_shared_memory": 4096},
    )
    assert config.builder_optimization_level == 5
    assert config.hardware_compatibility_level == trt.HardwareCompatibilityLevel.AMPERE_PLUS
    assert config.profiling_verbosity == trt.ProfilingVerbosity.DETAILED
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 1 << 30
    assert config.get_memory_pool_limit(trt.MemoryPoolType.TACTIC_SHARED_MEMORY) == 4096


def test_the_optimization_level_decides_the_fusion_level_and_deterministic_bounds_it():
    assert config_of(deterministic=True).builder_optimization_level == 1
    assert config_of(deterministic=True, builder_optimization_level=0).builder_optimization_level == 0
    with pytest.raises(ConfigError, match="level 1 or less, and 2 is asked for"):
        config_of(deterministic=True, builder_optimization_level=2)


def test_what_the_embedded_engine_has_no_use_for_is_said(caplog):
    with caplog.at_level(logging.INFO):
        config_of(memory_pool_limits={"workspace": 1}, weight_sparsity=True, tf32=False)
    told = [record.message for record in caplog.records if "no effect" in record.message]
    assert told == [
        "memory_pool_limits={'workspace': 1} has no effect on the embedded engine: it takes memory as it needs it.",
        "weight_sparsity=True has no effect on the embedded engine: it has no kernels for sparse weights.",
        "tf32=False has no effect on the embedded engine: float32 is computed in float32.",
    ]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"weight_streaming": True},
        {"version_compatible": True},
        {"hardware_compatibility_level": "ampere_plus"},
        {"builder_optimization_level": 4},
        {"builder_optimization_level": 1},
        {"precision_constraints": "prefer"},
        {"timing_cache": "no.cache"},
    ],
)
def test_each_setting_without_effect_has_its_line(caplog, settings):
    with caplog.at_level(logging.INFO):
        Builder().create_builder_config(precision="float32", **settings)
    told = [record.message for record in caplog.records if "no effect" in record.message]
    expected = [] if settings.get("builder_optimization_level") == 1 else list(settings)
    assert [message.partition("=")[0] for message in told] == expected


def test_misspelt_settings_are_warned_of(caplog):
    """Names of one's own are not, which TensorRT-LLM's programs pass; all become attributes."""
    own = {"name": "llama", "hidden_size": 64, "max_batch_size": 8, "pipeline_parallel": 1, "num_layers": 2}
    own |= {
        "quant_mode": None,
        "parallel_build": False,
        "max_output_len": 9,
        "int8_kv_cache": False,
        "fp8": False,
    }
    slips = {
        "use_refti": "use_refit",
        "opt_level": "builder_optimization_level",
        "memory_pool_limit": "memory_pool_limits",
    }
    slips |= {
        "strip_plan": "use_strip_plan",
        "strongly_type": "strongly_typed",
        "timing_cach": "timing_cache",
    }
    config = Builder().create_builder_config(precision="float32", **own, **dict.fromkeys(slips, 9))
    assert (config.name, config.use_refti) == ("llama", 9)
    told = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert sorted(told) == sorted(
        f"create_builder_config({name}=9) is an attribute alone, and changes no build. Did you mean {meant}?"
        for name, meant in slips.items()
    )


@pytest.mark.parametrize(
    ("release", "settings", "what"),
    [
        (OLD, {"use_strip_plan": True}, "has no BuilderFlag.STRIP_PLAN. Leave it out, or install a newer"),
        (OLD, {"weight_streaming": True}, "has no BuilderFlag.WEIGHT_STREAMING"),
        (
            OLD,
            {"hardware_compatibility_level": "same_compute_capability"},
            "it is one of none, ampere_plus in",
        ),
        (OLD, {"memory_pool_limits": {"tactic_shared_memory": 1}}, "MemoryPoolType.TACTIC_SHARED_MEMORY"),
        (NEW, {"strongly_typed": False}, "OBEY_PRECISION_CONSTRAINTS. Leave strongly_typed at true"),
    ],
)
def test_what_a_release_lacks_is_refused_by_name(release, settings, what):
    with dressed(release), pytest.raises(ConfigError) as caught:
        config_of(**settings)
    assert what in str(caught.value)


@pytest.mark.parametrize(
    ("release", "settings"),
    [
        (OLD, {"use_refit": True, "version_compatible": True, "weight_sparsity": True, "tf32": False}),
        (OLD, {"builder_optimization_level": 2, "hardware_compatibility_level": "ampere_plus"}),
        (OLD, {"memory_pool_limits": {"workspace": 1}, "profiling_verbosity": "detailed"}),
        (TEN, {"use_strip_plan": True, "weight_streaming": True, "strongly_typed": True}),
        (NEW, {"use_strip_plan": True, "weight_streaming": True, "memory_pool_limits": {"tactic_dram": 1}}),
    ],
)
def test_what_a_release_has_is_taken(release, settings):
    with dressed(release):
        config_of(**settings)


def test_8_6_refits_by_the_flag_that_it_has():
    with dressed(OLD):
        config = config_of(use_refit=True)
        assert config.get_flag(trt.BuilderFlag.REFIT)


def test_the_library_is_named_with_its_version(monkeypatch):
    real = backend.choice()
    with dressed(OLD):
        module = backend.tensorrt()
        monkeypatch.setattr(backend, "choice", lambda: replace(real, engine="tensorrt"))
        problem = tensorrt_settings.lacks(module, "weight_streaming=True", "BuilderFlag.WEIGHT_STREAMING")
    assert str(problem).startswith(
        "weight_streaming=True is asked for, but TensorRT 8.6.1 has no BuilderFlag"
    )


@pytest.mark.parametrize(("release", "needs"), [(OLD, True), (TEN, False), (NEW, False)])
def test_explicit_batch_is_asked_for_where_builders_know_implicit_ones(release, needs):
    with dressed(release):
        flags = Builder().create_network().trt_network.flags
    assert bool(flags >> int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH) & 1) == needs


@pytest.mark.parametrize(("release", "strongly"), [(OLD, False), (TEN, True), (NEW, True)])
def test_networks_are_strongly_typed_where_they_can_be(release, strongly):
    with dressed(release):
        assert Builder().create_network().strongly_typed == strongly


def test_a_graph_level_setting_is_kept_as_an_attribute():
    config = tx.Builder().create_builder_config(precision="float32", tf32=False, something="mine")
    assert config.something == "mine"
    assert config.to_dict()["tf32"] is False
