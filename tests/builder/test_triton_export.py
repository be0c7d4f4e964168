"""`export_triton`: the repository, config.pbtxt as Triton's own schema reads it, and the model beside it."""

import errno
import hashlib
import json
import re
import shutil
from dataclasses import replace

import ml_dtypes
import numpy as np
import onnxruntime as ort
import pytest
from google.protobuf import text_format
from lowered_models import run_session
from sampling import thinned
from stack_forms import HIDDEN, TABLE, config_of
from tritonclient.grpc import model_config_pb2

import trtllm_ext as tx
from trtllm_ext.builder import EngineConfig, export_onnx, export_triton
from trtllm_ext.builder.taps import Tap
from trtllm_ext.builder.triton.batching import batching_of
from trtllm_ext.builder.triton.config import quoted
from trtllm_ext.errors import BackendError, BuildError, ConfigError
from trtllm_ext.models import encoder_config, write_random_checkpoint
from trtllm_ext.parallel import Mapping
from trtllm_ext.runtime import EngineDir
from trtllm_ext.runtime.envelope import PluginSummary, envelope_name

BUDGET_S = 6

pytestmark = pytest.mark.usefixtures("one_thread")

LIMITS = tx.BuildConfig(max_num_tokens=32, opt_num_tokens=8)
SENTENCES = tx.BuildConfig(max_batch_size=4, max_input_len=16)
# Triton's names of ONNX Runtime's types, from its table of data types.
TYPES = {
    "tensor(float)": "TYPE_FP32",
    "tensor(float16)": "TYPE_FP16",
    "tensor(bfloat16)": "TYPE_BF16",
    "tensor(int32)": "TYPE_INT32",
}
NUMPY = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def parsed(path):
    """config.pbtxt as Triton reads it: an unknown field, or a wrong type, is an error."""
    return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig(), allow_unknown_field=False)


def built(folder, config, limits=LIMITS):
    """(checkpoint, engine directory)"""
    write_random_checkpoint(folder / "c", config)
    tx.build_engine_dir(folder / "c", folder / "ffn", limits)
    return folder / "c", folder / "ffn"


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    return built(tmp_path_factory.mktemp("stack"), config_of(TABLE["tanh"]))


@pytest.fixture
def plan(stack, tmp_path):
    """Makes an engine directory as TensorRT's: the envelope says so, which is all that an export goes by."""

    def make(**changes):
        shutil.copytree(stack[1], tmp_path / "plan", dirs_exist_ok=True)
        path = tmp_path / "plan" / envelope_name(0)
        told = {
            "engine_kind": "tensorrt",
            "engine_version": "10.14.1.48",
            "compute_capability": "9.0",
            **changes,
        }
        replace(EngineDir.read(tmp_path / "plan").envelope, **told).write(path)
        return tmp_path / "plan"

    return make


def exported(engine, repository, stack, **more):
    return export_triton(engine, repository, checkpoint_dir=stack[0], **more)


def check_agrees(config, session):
    """Names, types and full shapes of config.pbtxt against those of the model that ONNX Runtime has loaded."""
    first = [-1] if config.max_batch_size else []
    for ours, theirs in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        told = {
            each.name: (model_config_pb2.DataType.Name(each.data_type), [*first, *each.dims]) for each in ours
        }
        dims = {each.name: [d if isinstance(d, int) else -1 for d in each.shape] for each in theirs}
        assert told == {each.name: (TYPES[each.type], dims[each.name]) for each in theirs}


@pytest.mark.parametrize("dtype", NUMPY)
def test_a_stack_runs_in_bare_onnx_runtime_as_config_pbtxt_says(dtype, tmp_path):
    made = built(tmp_path, config_of(TABLE["tanh"], dtype))
    model = exported(made[1], tmp_path / "models", made)
    assert model.path == tmp_path / "models" / "ffn" / "1"
    config = parsed(tmp_path / "models" / "ffn" / "config.pbtxt")
    assert (config.name, config.backend, config.max_batch_size) == ("ffn", "onnxruntime", 32)
    assert config.HasField("dynamic_batching") and config.version_policy.latest.num_versions == 1
    [group] = config.instance_group
    assert (group.count, group.kind) == (1, model_config_pb2.ModelInstanceGroup.KIND_CPU)
    session = ort.InferenceSession(
        model.path / config.default_model_filename, providers=["CPUExecutionProvider"]
    )
    check_agrees(config, session)
    x = np.random.default_rng(0).normal(size=(7, HIDDEN)).astype(NUMPY[dtype])
    got = run_session(session, {"hidden_states": x})["hidden_states_out"]
    with tx.Session.from_engine_dir(made[1]) as ours:
        want = ours.run({"hidden_states": x})["hidden_states_out"]
    tolerance = {"float32": 2e-6, "float16": 4e-3, "bfloat16": 3e-2}[dtype]  # as in test_onnx_export
    difference = np.abs(got.astype(np.float64) - np.asarray(want, np.float64)).max()
    assert difference <= tolerance * np.abs(got.astype(np.float64)).max()
    # What dynamic batching does: rows of two requests in one run, and apart.
    apart = [run_session(session, {"hidden_states": part})["hidden_states_out"] for part in (x[:3], x[3:])]
    np.testing.assert_allclose(
        np.concatenate(apart).astype(np.float64), got.astype(np.float64), rtol=1e-2, atol=1e-2
    )
    assert (["26.03" in note for note in model.notes] == [True]) is (dtype == "bfloat16")


@pytest.mark.parametrize("name", thinned(TABLE, every=2, first=1))
def test_rows_of_every_form_and_tap_are_independent_so_that_batching_is_right(name, tmp_path):
    config = config_of(TABLE[name], layers=1)
    write_random_checkpoint(tmp_path / "c", config)
    limits = LIMITS.updated(taps=("*",))
    model = export_onnx(tmp_path / "c", tmp_path / "m.onnx", limits)
    batching = batching_of(EngineConfig(config.to_dict(), limits), model.inputs, model.outputs)
    if len(model.inputs) > 1:
        assert batching.max_rows == 0 and "'attention_output' is fixed" in batching.reason
        return
    assert batching.max_rows == 32 and len(model.outputs) > 1
    session = ort.InferenceSession(model.path, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).normal(size=(6, HIDDEN)).astype(np.float32)
    whole, part = (run_session(session, {"hidden_states": rows}) for rows in (x, x[4:]))
    for output, value in whole.items():
        np.testing.assert_allclose(part[output], value[4:], rtol=1e-3, atol=1e-5, err_msg=output)


def test_taps_of_unknown_meaning_and_models_of_ones_own_are_not_batched(stack):
    directory = EngineDir.read(stack[1])
    config = EngineConfig.from_dict(directory.config)
    tensors = (directory.envelope.inputs, directory.envelope.outputs)
    assert batching_of(config, *tensors).max_rows == 32
    mine = Tap("mine", "noted by the module under this name; what it means is its own affair")
    assert not mine.is_known
    batching = batching_of(replace(config, taps={"transformer.mine": mine}), *tensors)
    assert batching.max_rows == 0 and "'transformer.mine' means is not known" in batching.reason
    own = replace(config, pretrained_config={**config.pretrained_config, "architecture": "Mine"})
    assert "architecture 'Mine' depend on each other is not known" in batching_of(own, *tensors).reason


def test_what_attention_gives_stands_before_tokens_and_is_not_batched(tmp_path):
    config = config_of(TABLE["tanh"])
    config = replace(config, contract=replace(config.contract, attention_input=True))
    made = built(tmp_path, config)
    model = exported(made[1], tmp_path / "models", made)
    config = parsed(model.config_path)
    assert config.max_batch_size == 0 and not config.HasField("dynamic_batching")
    assert [list(each.dims) for each in config.input] == [[-1, HIDDEN], [2, -1, HIDDEN]]
    assert "the first dimension of 'attention_output' is fixed (2)" in model.config_path.read_text()
    check_agrees(config, ort.InferenceSession(model.file, providers=["CPUExecutionProvider"]))


def test_an_encoder(tmp_path):
    config = encoder_config(
        hidden_size=32,
        ffn_hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        vocab_size=50,
        max_position_embeddings=32,
    )
    made = built(tmp_path, config, SENTENCES)
    model = exported(made[1], tmp_path / "models", made, model_name="minilm")
    told = parsed(tmp_path / "models" / "minilm" / "config.pbtxt")
    assert (told.name, told.max_batch_size) == ("minilm", 4)
    assert {each.name: list(each.dims) for each in told.output} == {
        "last_hidden_state": [-1, 32],
        "sentence_embedding": [32],
    }
    assert "Only requests that are alike in their other dimensions are joined" in model.batching.reason
    session = ort.InferenceSession(model.file, providers=["CPUExecutionProvider"])
    check_agrees(told, session)
    mask = np.array([[1] * 9, [1] * 4 + [0] * 5], np.int32)
    ids = np.random.default_rng(0).integers(0, 50, mask.shape, np.int32)
    feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(mask)}
    got = run_session(session, feeds)
    with tx.Session.from_engine_dir(made[1]) as ours:
        for name, value in ours.run(feeds).items():
            np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-5)


def test_parameters_tell_the_contract_and_the_build(stack, tmp_path):
    model = exported(stack[1], tmp_path, stack)
    directory = EngineDir.read(stack[1])
    told = {key: value.string_value for key, value in parsed(model.config_path).parameters.items()}
    assert told["trtllm_ext.build_id"] == directory.envelope.build_id
    assert json.loads(told["trtllm_ext.contract"]) == directory.config["pretrained_config"]["contract"]
    assert told["trtllm_ext.contract_sha256"] == directory.envelope.contract_sha256


def test_an_engine_of_ranks_is_exported_whole(tmp_path):
    config = replace(config_of(TABLE["tanh"]), mapping=Mapping(world_size=2, tp_size=2))
    made = built(tmp_path, config)
    model = exported(made[1], tmp_path / "models", made)
    assert "split over 2 ranks" in model.notes[0] and model.notes[0] in model.config_path.read_text()
    x = np.random.default_rng(0).normal(size=(3, HIDDEN)).astype(np.float32)
    assert (
        run_session(ort.InferenceSession(model.file), {"hidden_states": x})["hidden_states_out"].shape
        == x.shape
    )


def test_a_plan_is_the_engines_file(plan, tmp_path):
    engine = plan(version_compatible=True)
    model = export_triton(engine, tmp_path / "models")
    assert model.file == tmp_path / "models" / "plan" / "1" / "model.plan"
    assert model.file.read_bytes() == (engine / "rank0.engine").read_bytes()
    config = parsed(model.config_path)
    assert (config.backend, config.default_model_filename, config.max_batch_size) == (
        "tensorrt",
        "model.plan",
        32,
    )
    [group] = config.instance_group
    assert (group.kind, list(group.profile)) == (model_config_pb2.ModelInstanceGroup.KIND_GPU, ["0"])
    assert model.server_options == ("--backend-config=tensorrt,version-compatible=true",)
    assert "TensorRT 10.14.1.48 for compute capability 9.0" in model.config_path.read_text()


def test_every_profile_is_offered_and_the_largest_batch_counts(plan, stack, tmp_path):
    [source] = EngineDir.read(stack[1]).envelope.inputs
    shapes = [tuple((rows, HIDDEN) for rows in each) for each in ((1, 1, 4), (4, 32, 64), (1, 8, 16))]
    engine = plan(inputs=(replace(source, profiles=tuple(shapes)),))
    config = parsed(export_triton(engine, tmp_path / "models").config_path)
    assert list(config.instance_group[0].profile) == ["0", "1", "2"]
    assert config.max_batch_size == 64


def test_plugin_libraries_lie_beside_the_plan_and_are_named_for_the_server(plan, tmp_path):
    library = tmp_path / "libown.so"
    library.write_bytes(b"plugins")
    mine = PluginSummary(
        name="SoftCap",
        version="1",
        namespace="own",
        library="libown.so",
        library_sha256=hashlib.sha256(b"plugins").hexdigest(),
    )
    engine = plan(plugins=(mine, replace(mine, name="Other"), PluginSummary(name="TopK", version="1")))
    model = export_triton(engine, tmp_path / "models", plugin_libraries=[library])
    assert [path.read_bytes() for path in model.libraries] == [b"plugins"]
    assert sorted(path.name for path in model.path.iterdir()) == ["libown.so", "model.plan"]
    [option] = model.server_options
    assert option == f"--backend-config=tensorrt,plugins={model.path / 'libown.so'}"
    assert option in model.config_path.read_text()
    library.write_bytes(b"built again")
    with pytest.raises(BuildError, match=r"which is not found; .*libown\.so is another build of that name"):
        export_triton(engine, tmp_path / "models", plugin_libraries=[library])
    with pytest.raises(BuildError, match=r"libown\.so \(sha256 .*which is not found\. Give the file"):
        export_triton(engine, tmp_path / "models")
    with pytest.raises(BackendError, match=r"none\.so, given as a plugin library, is not there"):
        export_triton(engine, tmp_path / "models", plugin_libraries=[tmp_path / "none.so"])
    engine = plan(plugins=(PluginSummary(name="Cap", version="1", namespace="own"),))
    with pytest.raises(BuildError, match="came from Python code, and Triton loads shared libraries alone"):
        export_triton(engine, tmp_path / "models")
    assert sorted(path.name for path in (tmp_path / "models" / "plan").iterdir()) == ["1", "config.pbtxt"]


def test_the_next_export_is_the_next_version_and_other_models_are_left_alone(stack, tmp_path):
    other = tmp_path / "models" / "other"
    (other / "3").mkdir(parents=True)
    (other / "config.pbtxt").write_text("# mine")
    first = exported(stack[1], tmp_path / "models", stack)
    before = first.file.read_bytes()
    (first.path.parent / "09").mkdir()  # which Triton passes over, as it does words
    (first.path.parent / "notes").mkdir()
    second = exported(stack[1], tmp_path / "models", stack)
    assert (first.version, second.version) == (1, 2)
    assert first.file.read_bytes() == before and second.has_written_config
    assert sorted(path.name for path in first.path.parent.iterdir()) == [
        "09",
        "1",
        "2",
        "config.pbtxt",
        "notes",
    ]
    assert (other / "config.pbtxt").read_text() == "# mine"


def test_an_edited_config_is_kept_or_overwritten_when_that_is_said(stack, tmp_path):
    path = exported(stack[1], tmp_path, stack).config_path
    edited = path.read_text().replace(
        "dynamic_batching { }", "dynamic_batching { max_queue_delay_microseconds: 9 }"
    )
    path.write_text(edited)
    with pytest.raises(
        BuildError, match=r"was edited, or written by something else\. --existing_config keep"
    ):
        exported(stack[1], tmp_path, stack)
    assert sorted(each.name for each in path.parent.iterdir()) == ["1", "config.pbtxt"]
    kept = exported(stack[1], tmp_path, stack, existing_config="keep")
    assert (kept.version, kept.has_written_config, path.read_text()) == (2, False, edited)
    assert exported(stack[1], tmp_path, stack, existing_config="overwrite").version == 3
    assert parsed(path).dynamic_batching.max_queue_delay_microseconds == 0


def test_another_interface_under_the_same_name_is_refused(stack, tmp_path):
    path = exported(stack[1], tmp_path / "models", stack, model_name="m").config_path
    before = path.read_text()
    tx.build_engine_dir(stack[0], tmp_path / "e", LIMITS.updated(max_num_tokens=64))
    with pytest.raises(BuildError, match="tells of other inputs, outputs or limits than this engine has"):
        exported(tmp_path / "e", tmp_path / "models", stack, model_name="m")
    assert path.read_text() == before
    exported(tmp_path / "e", tmp_path / "models", stack, model_name="m", existing_config="overwrite")
    assert parsed(path).max_batch_size == 64


def test_a_repository_without_config_is_left_so_when_that_is_said(stack, tmp_path):
    (tmp_path / "ffn" / "4").mkdir(parents=True)
    model = exported(stack[1], tmp_path, stack, existing_config="keep")
    assert model.version == 5 and not model.config_path.exists()


def test_what_is_refused_leaves_nothing(stack, plan, tmp_path):
    models = tmp_path / "models"
    with pytest.raises(
        ConfigError, match=r"an embedded engine, which Triton does not run.*Add --checkpoint_dir"
    ):
        export_triton(stack[1], models)
    with pytest.raises(ConfigError, match=r"'no/name' cannot be a model's name.*Set --model_name"):
        exported(stack[1], models, stack, model_name="no/name")
    with pytest.raises(ConfigError, match="leave --checkpoint_dir out"):
        exported(plan(), models, stack)
    with pytest.raises(
        ConfigError, match="taken as it is, weights included; leave --external_data and --allow_nan"
    ):
        export_triton(plan(), models, external_data=True, allow_nan=True)
    with pytest.raises(ConfigError, match="needs no plugin library; leave --plugin_library out"):
        exported(stack[1], models, stack, plugin_libraries=[tmp_path / "libown.so"])
    with pytest.raises(
        BuildError, match=r"split over 2 ranks.*`trtllm-ext serve --nproc 2` serves it; or convert"
    ):
        export_triton(plan(world_size=2), models)
    with pytest.raises(BuildError, match=r"holds no weights.*trtllm-ext refit"):
        export_triton(plan(is_stripped=True), models)
    [output] = EngineDir.read(stack[1]).envelope.outputs
    with pytest.raises(
        BuildError, match="output 'hidden_states_out' is float8_e4m3fn, and Triton's models have"
    ):
        export_triton(plan(outputs=(replace(output, dtype="float8_e4m3fn"),)), models)
    with pytest.raises(ConfigError, match="lies in the engine directory"):
        exported(stack[1], stack[1] / "models", stack)
    write_random_checkpoint(tmp_path / "other", config_of(TABLE["sigmoid"]))
    with pytest.raises(ConfigError, match="another model than"):
        export_triton(stack[1], models, checkpoint_dir=tmp_path / "other")
    assert not models.exists() or not list(models.iterdir())
    path = exported(stack[1], models, stack).path
    with pytest.raises(
        ConfigError, match=r"is one model of a repository\. Give the repository, .*--model_name ffn"
    ):
        exported(stack[1], path.parent, stack)


def test_an_engine_of_trtllm_build_is_refused(plan, tmp_path):
    engine = plan()
    (engine / envelope_name(0)).unlink()
    config = json.loads((engine / "config.json").read_text())
    del config["build_id"]
    (engine / "config.json").write_text(json.dumps(config))
    with pytest.raises(BuildError, match=r"written by TensorRT-LLM's trtllm-build.*Build the model with"):
        export_triton(engine, tmp_path / "models")


@pytest.mark.parametrize("text", ["plain", 'a "quoted" one', 'it\'s "both" \\ and \n lines', "ä \x00 €", ""])
def test_texts_are_read_back_as_they_were(text):
    message = text_format.Parse(f"name: {quoted(text)}", model_config_pb2.ModelConfig())
    assert message.name == text
    assert re.fullmatch(r"[ -~]*", quoted(text))


def test_a_version_that_cannot_be_written_leaves_no_model(stack, tmp_path, monkeypatch):
    def full(staging, final):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("trtllm_ext.runtime.atomic._take_place", full)
    with pytest.raises(BuildError, match="the disk is full"):
        exported(stack[1], tmp_path / "models", stack)
    assert list((tmp_path / "models").iterdir()) == []
