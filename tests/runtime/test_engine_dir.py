"""Engine directories and envelopes: what is damaged, foreign or mixed is refused with the reason."""

import copy
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtllm_ext.errors import EngineError
from trtllm_ext.runtime.engine_dir import ENGINE_DIRECTORY, EngineDir
from trtllm_ext.runtime.envelope import Envelope, PluginSummary, TensorSummary, crc32_of, ends_digest
from trtllm_ext.runtime.json_files import canonical_digest

BUDGET_S = 10

BUILD_ID = "0123456789abcdef" * 2
CONTRACT = {"activation": "relu", "eps": 1e-5}

CONFIG = {
    "version": "0.1.0",
    "build_id": BUILD_ID,
    "pretrained_config": {"architecture": "SublayerStack", "contract": CONTRACT},
    "build_config": {},
}


def make(directory, engine=b"engine" * 50000, **changes):
    """An engine directory around arbitrary bytes; returns its envelope."""
    directory.mkdir(exist_ok=True)
    (directory / "rank0.engine").write_bytes(engine)
    file = io.BytesIO(engine)
    fields = {
        "engine_kind": "embedded",
        "engine_version": "10.14.1",
        "compute_capability": "cpu",
        "build_id": BUILD_ID,
        "config_sha256": canonical_digest(CONFIG),
        "contract_sha256": canonical_digest(CONTRACT),
        "rank": 0,
        "world_size": 1,
        "engine_bytes": len(engine),
        "engine_crc32": crc32_of(file),
        "engine_ends_sha256": ends_digest(file, len(engine)),
        "built_by": "trtllm_ext 0.1.0",
        "inputs": (
            TensorSummary(
                name="x",
                dtype="float32",
                shape=(-1, 8),
                profiles=(((1, 8), (2, 8), (4, 8)),),
                dim_names=("num_tokens", "hidden"),
            ),
        ),
        "outputs": (TensorSummary(name="y", dtype="float32", shape=(-1, 8)),),
    }
    envelope = Envelope(**{**fields, **changes})
    envelope.write(directory / "rank0.envelope.json")
    (directory / "config.json").write_text(json.dumps(CONFIG))
    return envelope


def edit(path, **changes):
    """Change fields of a JSON file; ... removes one. An envelope is sealed again, so that the change itself counts."""
    values = {
        key: value for key, value in {**json.loads(path.read_text()), **changes}.items() if value is not ...
    }
    path.write_text(json.dumps(sealed(values) if "sha256" in values else values))


def sealed(values):
    rest = {key: value for key, value in values.items() if key != "sha256"}
    return {**rest, "sha256": canonical_digest(rest)}


def refused(directory, rank=0):
    with pytest.raises(EngineError) as caught:
        EngineDir.read(directory, rank).map_engine()
    return str(caught.value)


def test_round_trip(tmp_path):
    envelope = make(tmp_path / "engine")
    directory = EngineDir.read(tmp_path / "engine")
    assert directory.envelope == envelope
    with directory.map_engine() as mapped:
        assert mapped[:6] == b"engine"
    assert directory.tokenizer_path is None


def test_an_envelope_of_version_1(tmp_path):
    """It lacks what version 2 added, and means the plain case by that."""
    envelope = make(tmp_path / "engine")
    later = dict.fromkeys(
        ("version_compatible", "hardware_compatibility_level", "is_stripped", "plugins"), ...
    )
    edit(tmp_path / "engine" / "rank0.envelope.json", format_version=1, **later)
    read = EngineDir.read(tmp_path / "engine").envelope
    assert read == envelope
    plain = (read.version_compatible, read.hardware_compatibility_level, read.is_stripped, read.plugins)
    assert plain == (False, "none", False, ())


def test_plugins_round_trip(tmp_path):
    plugins = (
        PluginSummary(
            name="Fast", version="1", namespace="mine", library="libfast.so", library_sha256="0" * 64
        ),
        PluginSummary(name="Python", version="2"),
    )
    make(tmp_path / "engine", plugins=plugins, is_stripped=True, hardware_compatibility_level="ampere_plus")
    assert EngineDir.read(tmp_path / "engine").envelope.plugins == plugins
    assert str(plugins[0]) == "'Fast' version '1' in namespace 'mine'"


def test_what_a_build_may_replace(tmp_path):
    make(tmp_path / "engine")
    for name in ("rank12.engine", "rank12.envelope.json", "tokenizer.json"):
        (tmp_path / "engine" / name).write_text("")
    assert ENGINE_DIRECTORY.foreign(tmp_path / "engine") == []
    foreign = ["notes.txt", "rank.engine", "rank0.safetensors", "xconfig.json"]
    for name in foreign:
        (tmp_path / "engine" / name).write_text("")
    (tmp_path / "engine" / "rank3.engine").mkdir()
    assert ENGINE_DIRECTORY.foreign(tmp_path / "engine") == sorted([*foreign, "rank3.engine"])


@pytest.mark.parametrize(
    "config",
    [
        {"hidden_size": 384, "model_type": "bert"},
        {"version": "1.0", "pretrained_config": {}, "build_config": {}},  # an engine of another program
        "no object",
        None,
    ],
)
def test_names_alone_make_no_engine(tmp_path, config):
    for name in ("config.json", "rank0.engine", "tokenizer.json"):
        (tmp_path / name).write_text(json.dumps(config))
    if config is None:
        (tmp_path / "config.json").unlink()
    names = sorted(entry.name for entry in tmp_path.iterdir())
    assert ENGINE_DIRECTORY.foreign(tmp_path) == names


@pytest.mark.parametrize("name", ["config.json", "rank0.engine", "rank0.envelope.json"])
def test_a_missing_file_is_named(tmp_path, name):
    make(tmp_path / "engine")
    (tmp_path / "engine" / name).unlink()
    told = refused(tmp_path / "engine")
    assert f"has no {name} (found: " in told
    assert "not a complete engine directory" in told


def test_no_directory(tmp_path):
    assert "does not exist; expected an engine directory" in refused(tmp_path / "none")
    (tmp_path / "file").write_text("")
    assert "is a file; expected an engine directory" in refused(tmp_path / "file")


def test_a_checkpoint_is_not_an_engine_directory(tmp_path):
    (tmp_path / "config.json").write_text('{"architecture": "Encoder"}')
    told = refused(tmp_path)
    assert f"{tmp_path} is a checkpoint; expected an engine directory." in told
    assert f"trtllm-ext build --checkpoint_dir {tmp_path} --output_dir ENGINE." in told
    (tmp_path / "config.json").write_text('{"architectures": ["BertModel"]}')
    assert f"trtllm-ext convert --model_dir {tmp_path} --output_dir CHECKPOINT, then " in refused(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert "Is " in refused(tmp_path)
    assert "a checkpoint?" in refused(tmp_path)


def test_a_rank_that_was_not_built(tmp_path):
    make(tmp_path / "engine")
    assert "it was built for 1 rank(s). Use a rank below 1" in refused(tmp_path / "engine", rank=3)


def test_a_rank_that_is_missing(tmp_path):
    make(tmp_path / "engine", world_size=2)
    text = refused(tmp_path / "engine", rank=1)
    assert "has no rank1.envelope.json, though its engine was built for 2 ranks. Copy the whole" in text


def test_a_truncated_engine(tmp_path):
    make(tmp_path / "engine")
    engine = tmp_path / "engine" / "rank0.engine"
    engine.write_bytes(engine.read_bytes()[:-1])
    assert "has 299999 bytes, but 300000 were written: it is truncated" in refused(tmp_path / "engine")


@pytest.mark.parametrize("position", [0, 17, -1])
def test_a_flipped_bit_at_the_ends(tmp_path, position):
    make(tmp_path / "engine")
    engine = tmp_path / "engine" / "rank0.engine"
    data = bytearray(engine.read_bytes())
    data[position] ^= 4
    engine.write_bytes(data)
    assert "it is damaged or comes from another build" in refused(tmp_path / "engine")


def test_a_flipped_bit_inside_a_tensorrt_engine(tmp_path):
    """The library has no checksums of its own there; the embedded plan has."""
    make(tmp_path / "engine", engine_kind="tensorrt")
    engine = tmp_path / "engine" / "rank0.engine"
    data = bytearray(engine.read_bytes())
    data[150000] ^= 4
    engine.write_bytes(data)
    assert "its checksum does not match" in refused(tmp_path / "engine")


def test_files_of_two_builds(tmp_path):
    make(tmp_path / "engine")
    edit(tmp_path / "engine" / "rank0.envelope.json", build_id="f" * 32)
    assert "mixes two builds" in refused(tmp_path / "engine")


def test_an_edited_contract(tmp_path):
    make(tmp_path / "engine")
    edit(
        tmp_path / "engine" / "config.json",
        pretrained_config={"contract": {**CONTRACT, "activation": "gelu_erf"}},
    )
    assert "is not the one that rank0.engine was built for" in refused(tmp_path / "engine")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "is not an engine's envelope: its format is 'other'"),
        (
            {"format_version": 3},
            "has format version 3; this trtllm_ext reads versions 1 to 2. Build the engine again",
        ),
        ({"format_version": True}, "has format version True"),
        ({"format_version": 1}, "has the key 'hardware_compatibility_level', which format version 1 has not"),
        ({"version_compatible": 1}, "version_compatible is 1, expected true or false"),
        ({"is_stripped": ...}, "lacks 'is_stripped'"),
        ({"hardware_compatibility_level": "all"}, "is 'all', expected one of none, ampere_plus"),
        ({"plugins": {}}, "plugins is {}, expected a list"),
        ({"plugins": [{"name": "Fast"}]}, "expected the texts name, version, namespace, library and"),
        ({"rank": ...}, "lacks 'rank'"),
        ({"extra": 1}, "has the unknown key 'extra'"),
        ({"engine_kind": "onnx"}, "engine_kind is 'onnx', expected one of embedded, tensorrt"),
        ({"engine_bytes": -1}, "engine_bytes is -1, expected a number of at least 0"),
        ({"engine_bytes": 1.5}, "engine_bytes is 1.5, expected a number"),
        ({"world_size": 0}, "rank is 0, expected less than world_size=0"),
        ({"rank": 1, "world_size": 2}, "describes rank 1; a file was renamed"),
        ({"contract_sha256": "12"}, "contract_sha256 is '12', expected 64 hexadecimal digits"),
        ({"build_id": None}, "build_id is None, expected 32 hexadecimal digits"),
        ({"engine_version": ""}, "engine_version is '', expected a non-empty text"),
        ({"inputs": {}}, "inputs is {}, expected a list"),
        ({"inputs": [{"name": "x"}]}, "expected name, dtype, shape, profiles and dim_names"),
    ],
)
def test_a_damaged_envelope(tmp_path, changes, message):
    make(tmp_path / "engine")
    edit(tmp_path / "engine" / "rank0.envelope.json", **changes)
    assert message in refused(tmp_path / "engine")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 1, "a": 2}', "\x00", '{"rank": 1e999}'])
def test_text_that_is_no_envelope(tmp_path, text):
    make(tmp_path / "engine")
    (tmp_path / "engine" / "rank0.envelope.json").write_text(text)
    assert "rank0.envelope.json" in refused(tmp_path / "engine")


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    return make(tmp_path_factory.mktemp("engine")).to_dict()


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_single_change_is_refused_or_valid(valid, data):
    """Whatever stands in one field: an EngineError, or an envelope that says the same when written again."""
    values = copy.deepcopy(json.loads(json.dumps(valid)))
    key = data.draw(st.sampled_from(sorted(set(values) - {"sha256"})))
    values[key] = data.draw(json_values)
    try:
        envelope = Envelope.from_dict(sealed(values))
    except EngineError:
        return
    assert json.loads(json.dumps(envelope.to_dict())) == sealed(values)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole")
    make(directory)
    return {entry.name: entry.read_bytes() for entry in directory.iterdir()}


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damaged_descriptions_are_refused(whole, tmp_path_factory, data):
    """Bytes changed, lost or added in config.json or the envelope: refused, unless the text means the same."""
    name = data.draw(st.sampled_from(["config.json", "rank0.envelope.json"]))
    damaged = bytearray(whole[name])
    at = data.draw(st.integers(0, len(damaged) - 1))
    kind = data.draw(st.sampled_from(["flip", "cut", "insert", "drop"]))
    if kind == "flip":
        damaged[at] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "cut":
        del damaged[at:]
    elif kind == "insert":
        damaged[at:at] = data.draw(st.binary(min_size=1, max_size=4))
    else:
        del damaged[at]
    directory = tmp_path_factory.mktemp("damaged")
    for each, content in whole.items():
        (directory / each).write_bytes(damaged if each == name else content)
    try:
        EngineDir.read(directory)
    except EngineError:
        return
    assert json.loads(damaged) == json.loads(whole[name])
