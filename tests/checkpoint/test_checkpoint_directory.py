"""Writing and reading a checkpoint directory: whole or not at all, and nothing but what the config calls for."""

import json
import os
import resource
import shutil
import zlib

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from trtllm_ext.checkpoint import (
    ModelConfig,
    expected_weights,
    load_checkpoint,
    load_config,
    write_checkpoint,
)
from trtllm_ext.checkpoint.config import config_digest
from trtllm_ext.checkpoint.safetensors_writer import SafetensorsWriter
from trtllm_ext.errors import CheckpointError, ConfigError
from trtllm_ext.models import sublayer_stack_config
from trtllm_ext.models.random import random_weight, write_random_checkpoint
from trtllm_ext.parallel import Mapping

BUDGET_S = 15


def small(**changes):
    fields = {"hidden_size": 4, "ffn_hidden_size": 6, "num_hidden_layers": 2, **changes}
    return sublayer_stack_config(**fields)


@pytest.fixture
def checkpoint(tmp_path):
    write_random_checkpoint(tmp_path / "ckpt", small(), seed=3)
    return tmp_path / "ckpt"


def rewrite(checkpoint, change):
    """Save the weights anew, without checksums, after `change` has had its way with them."""
    file = checkpoint / "rank0.safetensors"
    weights = {name: values.copy() for name, values in load_file(file).items()}
    change(weights)
    save_file(weights, file)


def edit_config(checkpoint, change, *, sign=True):
    data = json.loads((checkpoint / "config.json").read_text())
    change(data)
    if sign:
        data["sha256"] = config_digest(data)
    (checkpoint / "config.json").write_text(json.dumps(data))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_round_trip_is_exact_and_read_only(tmp_path, dtype):
    config = small(dtype=dtype, gated=True, placement="sandwich", final_norm=True)
    write_random_checkpoint(tmp_path / "c", config, seed=7)
    loaded = load_checkpoint(tmp_path / "c")
    assert loaded.config == config
    assert {name: values.shape for name, values in loaded.weights.items()} == expected_weights(config)
    for name, values in loaded.weights.items():
        written = np.concatenate(list(random_weight(name, values.shape, dtype, 7))).reshape(values.shape)
        assert values.dtype == {"bfloat16": ml_dtypes.bfloat16}.get(dtype, np.dtype(dtype))
        assert values.tobytes() == written.tobytes()
        assert not values.flags.writeable
        assert values.flags.aligned


def test_the_file_is_plain_safetensors_with_tensorrt_llm_names(checkpoint):
    names = set(load_file(checkpoint / "rank0.safetensors"))
    layer = {f"mlp.{part}.{leaf}" for part in ("fc", "proj") for leaf in ("weight", "bias")}
    layer |= {"post_layernorm.weight", "post_layernorm.bias"}
    assert names == {f"transformer.layers.{i}.{name}" for i in range(2) for name in layer}


def test_same_seed_same_bytes(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_random_checkpoint(tmp_path / name, small(), seed=seed)
    a, b, c = ((tmp_path / name / "rank0.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_tensor_parallel_shapes_and_their_check():
    config = small()
    sharded = ModelConfig(**{**vars(config), "mapping": Mapping(world_size=2, tp_size=2)})
    shapes = expected_weights(sharded)
    assert shapes["transformer.layers.0.mlp.fc.weight"] == (3, 4)
    assert shapes["transformer.layers.0.mlp.fc.bias"] == (3,)
    assert shapes["transformer.layers.0.mlp.proj.weight"] == (4, 3)
    assert shapes["transformer.layers.0.mlp.proj.bias"] == (4,)
    odd = ModelConfig(**{**vars(config), "mapping": Mapping(world_size=4, tp_size=4)})
    with pytest.raises(ConfigError, match=r"intermediate_size=6 does not split over tp_size=4"):
        expected_weights(odd)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("transformer.layers.1.mlp.fc.bias"), r"transformer.layers.1.mlp.fc.bias is missing"),
        (
            lambda w: w.update({"transformer.layers.0.mlp.up.weight": np.zeros(3, np.float32)}),
            "transformer.layers.0.mlp.up.weight is not a weight of this model. Did you mean",
        ),
        (
            lambda w: w.update({"transformer.layers.0.mlp.fc.weight": np.zeros((4, 6), np.float32)}),
            r"mlp.fc.weight has shape \(4, 6\), the config calls for \(6, 4\)",
        ),
        (
            lambda w: w.update({"transformer.layers.0.mlp.fc.bias": np.zeros(6, np.float16)}),
            "mlp.fc.bias has type float16, the config says float32",
        ),
    ],
)
def test_weights_that_do_not_fit_are_listed(checkpoint, change, message):
    rewrite(checkpoint, change)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_is_refused_unless_allowed(checkpoint, value):
    rewrite(checkpoint, lambda w: w["transformer.layers.1.mlp.proj.weight"].__setitem__((0, 0), value))
    with pytest.raises(CheckpointError, match=r"layers.1.mlp.proj.weight holds NaN or infinity; allow_nan"):
        load_checkpoint(checkpoint)
    assert not np.isfinite(
        load_checkpoint(checkpoint, allow_nan=True).weights["transformer.layers.1.mlp.proj.weight"]
    ).all()


def test_a_flipped_bit_of_a_weight_is_found_by_name(checkpoint):
    file = checkpoint / "rank0.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(
        CheckpointError, match=r"is damaged: its checksum is [0-9a-f]{8}, written was [0-9a-f]{8}"
    ):
        load_checkpoint(checkpoint, allow_nan=True)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_file_is_refused(checkpoint, keep):
    file = checkpoint / "rank0.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"rank0.safetensors (is damaged|has \d+ bytes)"):
        load_checkpoint(checkpoint)


def test_foreign_and_missing_files(tmp_path, checkpoint):
    (checkpoint / "rank0.safetensors").write_bytes(b"PK\x03\x04" * 100)
    with pytest.raises(CheckpointError, match=r"rank0.safetensors is damaged or not a safetensors file"):
        load_checkpoint(checkpoint)
    (checkpoint / "rank0.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"rank0.safetensors does not exist"):
        load_checkpoint(checkpoint)
    (checkpoint / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config.json does not exist"):
        load_checkpoint(checkpoint)
    with pytest.raises(CheckpointError, match=r"nowhere is not a checkpoint directory: it does not exist"):
        load_checkpoint(tmp_path / "nowhere")
    with pytest.raises(
        CheckpointError, match=r"rank=1 is outside 0..0: .* with --tp_size 2, or write .* tp_size 2\.$"
    ):
        write_random_checkpoint(tmp_path / "d", small())
        load_checkpoint(tmp_path / "d", rank=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c.update(architecture="SublayerStak"),
            "'SublayerStak' is not known; supported: SublayerStack, Encoder",
        ),
        (lambda c: c.update(architecture="Encoder"), "architecture 'Encoder' needs embedding"),
        (lambda c: c.update(dtype="float8"), "dtype='float8' is not a weight type"),
        (lambda c: c.update(hidden_size="4"), "config.hidden_size='4' is not of type int"),
        (lambda c: c.update(hidden_size=0), "hidden_size=0 must be at least 1"),
        (lambda c: c.pop("contract"), "lacks the field 'contract'. Without it the exact maths is not known"),
        (lambda c: c.pop("intermediate_size"), "lacks the field 'intermediate_size'"),
        (lambda c: c.update(hiden_act="relu"), "unknown field 'hiden_act'. Did you mean hidden_act"),
        (
            lambda c: c.update(hidden_act="silu"),
            "config.hidden_act='silu' is not supported here; expected 'relu'",
        ),
        (
            lambda c: c.update(norm_epsilon=1e-6),
            "config.norm_epsilon=1e-06 is not supported here; expected 1e-05",
        ),
        (
            lambda c: c["quantization"].update(quant_algo="FP8"),
            "config.quantization=.*FP8.* is not supported",
        ),
        (lambda c: c["mapping"].update(tp_size=2), "world_size=1 is not tp_size"),
        (lambda c: c["mapping"].update(rank=0), "mapping must be an object of sizes, without a rank"),
        (lambda c: c["contract"]["feed_forward"].update(activation="mish"), "activation 'mish' is not known"),
    ],
)
def test_a_config_that_is_not_understood_is_refused_by_name(checkpoint, change, message):
    edit_config(checkpoint, change)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_config(checkpoint)
    assert str(checkpoint / "config.json") in str(caught.value)


def test_a_config_that_changed_after_writing_is_refused_until_its_digest_goes(checkpoint):
    edit_config(checkpoint, lambda c: c["contract"]["feed_forward"].update(activation="silu"), sign=False)
    with pytest.raises(
        CheckpointError, match=r"does not match its sha256: it was damaged, or changed by hand"
    ):
        load_config(checkpoint)
    edit_config(checkpoint, lambda c: (c.pop("sha256"), c.update(hidden_act="silu")), sign=False)
    assert load_config(checkpoint).contract.feed_forward.activation == "silu"


@pytest.mark.parametrize("text", ["", "[]", '{"dtype": NaN}', '{"a": 1, "a": 2}', "[" * 100_000, "\ud800"])
def test_a_config_that_is_no_json_object_is_refused(checkpoint, text):
    (checkpoint / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(CheckpointError, match=r"config.json"):
        load_config(checkpoint)


@pytest.fixture
def full_disk(monkeypatch):
    def feed(writer, values):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SafetensorsWriter, "feed", feed)


def test_a_full_disk_leaves_nothing(tmp_path, full_disk):
    with pytest.raises(CheckpointError, match=rf"cannot write {tmp_path / 'c'}: the disk is full"):
        write_random_checkpoint(tmp_path / "c", small())
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_may_not_grow_leaves_nothing(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        with pytest.raises(
            CheckpointError, match=r"the disk is full, or a quota or file size limit is reached"
        ):
            write_random_checkpoint(tmp_path / "c", small(hidden_size=64))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_a_file_whose_data_is_not_aligned_is_read_all_the_same(checkpoint):
    file = checkpoint / "rank0.safetensors"
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    expected = {name: values.tobytes() for name, values in load_checkpoint(checkpoint).weights.items()}
    file.write_bytes((length + 1).to_bytes(8, "little") + data[8 : 8 + length] + b" " + data[8 + length :])
    weights = load_checkpoint(checkpoint).weights
    assert {name: values.tobytes() for name, values in weights.items()} == expected
    assert all(values.flags.aligned and not values.flags.writeable for values in weights.values())


def test_a_failed_write_leaves_the_older_checkpoint(checkpoint, full_disk):
    before = (checkpoint / "rank0.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match=r"the disk is full"):
        write_random_checkpoint(checkpoint, small())
    assert (checkpoint / "rank0.safetensors").read_bytes() == before
    assert [entry.name for entry in checkpoint.parent.iterdir()] == ["ckpt"]


def test_an_older_checkpoint_is_replaced_as_a_whole(checkpoint):
    (checkpoint / "rank1.safetensors").write_bytes(b"of an older, sharded one")
    write_random_checkpoint(checkpoint, small(hidden_act="silu"), seed=4)
    assert load_checkpoint(checkpoint).config == small(hidden_act="silu")
    assert sorted(entry.name for entry in checkpoint.iterdir()) == ["config.json", "rank0.safetensors"]


def test_a_source_that_cannot_be_read_is_not_blamed_on_the_output(tmp_path):
    def source(name, shape):
        raise OSError(5, "Input/output error", "weights.bin")

    with pytest.raises(
        CheckpointError, match=r"the values of transformer\..* cannot be read: .*'weights\.bin'"
    ):
        write_checkpoint(tmp_path / "c", small(), source)
    with pytest.raises(CheckpointError, match=r"gone\.json cannot be read: No such file or directory\."):
        write_checkpoint(
            tmp_path / "c",
            small(),
            lambda name, shape: [np.zeros(shape, np.float32)],
            companions=[tmp_path / "gone.json"],
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("names", [("config.json", "tokenizer.json"), ("rank0.safetensors",)])
def test_a_model_folder_is_not_replaced(tmp_path, names):
    for name in names:
        (tmp_path / name).write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match=f"no part of an earlier checkpoint: {', '.join(names)}"):
        write_random_checkpoint(tmp_path, small())
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(names)


def test_a_directory_of_other_things_is_not_replaced(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    with pytest.raises(CheckpointError, match=r"files that are no part of an earlier checkpoint: thesis.tex"):
        write_random_checkpoint(tmp_path / "home", small())
    assert (tmp_path / "home" / "thesis.tex").read_text() == "years of work"


def test_an_output_path_that_is_a_file_or_lies_below_one(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match=r"it is a file, and the checkpoint needs a directory"):
        write_random_checkpoint(tmp_path / "file", small())
    with pytest.raises(CheckpointError, match=r"cannot write .*file/below"):
        write_random_checkpoint(tmp_path / "file" / "below", small())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_output_path_that_is_not_writable(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(CheckpointError, match=r"Choose a place that this user may write to"):
        write_random_checkpoint(tmp_path / "locked" / "c", small())


def test_values_that_do_not_fill_their_shape_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"mlp.fc.weight ends 23 values before its shape"):
        write_checkpoint(tmp_path / "c", small(), lambda name, shape: [np.zeros(1, np.float32)])
    with pytest.raises(CheckpointError, match=r"beyond float32"):
        write_checkpoint(tmp_path / "c", small(), lambda name, shape: [np.zeros(shape, np.float64)])
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_may_be_copied(checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "copy")
    assert load_checkpoint(tmp_path / "copy").config == small()


def test_checksums_cover_the_name(checkpoint):
    # Two tensors of one shape swapped in the header: every byte of data is still what was written.
    file = checkpoint / "rank0.safetensors"
    data = file.read_bytes()
    swapped = data.replace(b"layers.0.mlp.fc.weight", b"layers.#.mlp.fc.weight")
    swapped = swapped.replace(b"layers.1.mlp.fc.weight", b"layers.0.mlp.fc.weight")
    swapped = swapped.replace(b"layers.#.mlp.fc.weight", b"layers.1.mlp.fc.weight")
    assert zlib.crc32(swapped) != zlib.crc32(data)
    file.write_bytes(swapped)
    with pytest.raises(CheckpointError, match=r"layers.\d.mlp.fc.weight is damaged"):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            '{"architectures": ["BertModel"]}',
            r"is a Hugging Face model folder.* trtllm-ext convert --model_dir \S+ --",
        ),
        (
            '{"model_type": "bert"}',
            r"is a Hugging Face model folder, not a checkpoint directory. Convert it first",
        ),
        (
            '{"pretrained_config": {}, "build_config": {}}',
            r"is an engine directory, built already. Run it: trtllm-ext",
        ),
        ('{"architecture": "LlamaForCausalLM"}', r"config has the unknown field|config lacks the field"),
    ],
)
def test_wrong_kinds_of_directories(tmp_path, config, message):
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path)
