"""Builds, engines and what reads networks on TensorRT 8.6, 10.14 and 11.4: every call is in the release's bindings."""

import functools

import numpy as np
import pytest
from dressed_tensorrt import dressed, recorded
from sampling import thinned
from stack_forms import TABLE, checkpoint, config_of, random_input
from tensorrt_surface import releases

import trtllm_ext as tx
from trtllm_ext.builder import BuildConfig, build_engine_dir, export_onnx, refit_engine_dir
from trtllm_ext.models import model_from_checkpoint
from trtllm_ext.verify import verify_engine

BUDGET_S = 8

OLD, TEN, NEW = releases()
CONFIG = config_of(TABLE["every factor"])
X = {"hidden_states": random_input(CONFIG)}

# By default each release in some; test_signatures_of_models.py and test_signatures_of_functional.py go through all.
on_all = pytest.mark.parametrize("release", thinned([OLD, TEN, NEW], every=2))
on_new = pytest.mark.parametrize("release", thinned([TEN, NEW], every=2))


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch, one_thread):
    """TensorRT's timing cache is written to the current directory unless told."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Two checkpoints of one config, other weights in each."""
    folders = [tmp_path_factory.mktemp("checkpoint") for _ in range(2)]
    for seed, folder in enumerate(folders):
        checkpoint(folder, CONFIG, seed=seed)
    return folders


def run(path, **more):
    with tx.Session.from_engine_dir(path, **more) as session:
        return np.array(session.run(X)["hidden_states_out"])


@functools.cache
def expected(folder):
    """What the engine of a checkpoint gives without a dress."""
    with recorded():
        engine = tx.build(model_from_checkpoint(folder), BuildConfig(max_num_tokens=32)).engine
        with tx.Session.from_serialized_engine(engine) as session:
            return np.array(session.run(X)["hidden_states_out"])


def check(folder, path, uses, *names, **more):
    """That the engine directory gives the checkpoint's numbers, and that members of these names were used."""
    np.testing.assert_allclose(run(path, **more), expected(folder), rtol=1e-5, atol=1e-6)
    missing = set(names) - {f"{use.owner}.{use.name}" for use in uses}
    assert not missing


@on_all
def test_settings(checkpoints, tmp_path, release, monkeypatch):
    monkeypatch.setenv("TRTLLM_EXT_ALLOW_HOST_CODE", "1")
    settings = BuildConfig(
        max_num_tokens=32,
        builder_optimization_level=4,
        profiling_verbosity="detailed",
        version_compatible=True,
        hardware_compatibility_level="ampere_plus",
        memory_pool_limits={"workspace": 1 << 24},
        tf32=False,
        weight_sparsity=True,
    )
    with dressed(release, "tensorrt") as dress:
        build_engine_dir(checkpoints[0], tmp_path / "out", settings)
        of_config = ("builder_optimization_level", "profiling_verbosity", "hardware_compatibility_level")
        methods = ("set_flag", "clear_flag", "set_memory_pool_limit")
        names = [f"IBuilderConfig.{name}" for name in (*of_config, *methods)]
        names += [f"BuilderFlag.{name}" for name in ("VERSION_COMPATIBLE", "SPARSE_WEIGHTS", "TF32")]
        names += ["ProfilingVerbosity.DETAILED", "HardwareCompatibilityLevel.AMPERE_PLUS"]
        check(checkpoints[0], tmp_path / "out", dress.uses, *names, "MemoryPoolType.WORKSPACE")
        written = {use.name for use in dress.uses if use.what == "set" and use.owner == "IBuilderConfig"}
        assert set(of_config) <= written


@on_all
def test_timing_cache(checkpoints, tmp_path, release):
    file = tmp_path / "timings"
    with dressed(release, "tensorrt") as dress:
        build_engine_dir(
            checkpoints[0], "first", BuildConfig(max_num_tokens=32, output_timing_cache=str(file))
        )
        again = BuildConfig(max_num_tokens=32, input_timing_cache=str(file))
        build_engine_dir(checkpoints[0], "second", again)
        names = (
            "IBuilderConfig.create_timing_cache",
            "IBuilderConfig.set_timing_cache",
            "ITimingCache.serialize",
        )
        check(checkpoints[0], "second", dress.uses, *names)


@on_all
def test_refit(checkpoints, release):
    with dressed(release, "tensorrt") as dress:
        build_engine_dir(checkpoints[0], "first", BuildConfig(max_num_tokens=32, use_refit=True))
        refit_engine_dir("first", checkpoints[1], "second")
        names = ("Refitter.__init__", "Refitter.set_named_weights", "Refitter.refit_cuda_engine")
        check(checkpoints[1], "second", dress.uses, *names)


@on_new
def test_plans_without_weights(checkpoints, release):
    with dressed(release, "tensorrt") as dress:
        build_engine_dir(checkpoints[0], "bare", BuildConfig(max_num_tokens=32, use_strip_plan=True))
        refit_engine_dir("bare", checkpoints[1], "filled")
        check(
            checkpoints[1],
            "filled",
            dress.uses,
            "BuilderFlag.STRIP_PLAN",
            "ICudaEngine.create_serialization_config",
        )


@on_new
def test_weight_streaming(checkpoints, release):
    with dressed(release, "tensorrt") as dress:
        build_engine_dir(checkpoints[0], "out", BuildConfig(max_num_tokens=32, weight_streaming=True))
        name = "ICudaEngine.weight_streaming_budget_v2"
        check(checkpoints[0], "out", dress.uses, name, gpu_weights_percent=0.5)


@on_new
def test_progress(checkpoints, release):
    told = []
    with dressed(release, "tensorrt") as dress:
        build_engine_dir(
            checkpoints[0],
            "out",
            BuildConfig(max_num_tokens=32),
            progress=lambda message, done: told.append(message),
        )
        check(checkpoints[0], "out", dress.uses, "IBuilderConfig.progress_monitor")
    assert told


@on_all
def test_verify(checkpoints, release):
    with dressed(release, "tensorrt"):
        build_engine_dir(checkpoints[0], "out", BuildConfig(max_num_tokens=32, taps=["*"]))
        assert verify_engine("out", checkpoints[0]).is_right
        assert not verify_engine("out", checkpoints[1]).is_right


@on_all
def test_export_to_onnx(checkpoints, release):
    with dressed(release, "tensorrt"):
        export_onnx(checkpoints[0], "model.onnx", BuildConfig(max_num_tokens=32))
    import onnxruntime

    (found,) = onnxruntime.InferenceSession("model.onnx").run(None, X)
    np.testing.assert_allclose(found, expected(checkpoints[0]), rtol=1e-5, atol=1e-6)
