"""Checkpoints of several ranks: what is written, what is read, and files that do not belong together."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from sampling import thinned
from stack_forms import TABLE, config_of

from trtllm_ext.checkpoint import (
    FORMS,
    convert,
    expected_weights,
    load_checkpoint,
    load_config,
    load_resharded,
    load_whole,
    stack_config,
)
from trtllm_ext.checkpoint.sharding import with_ranks
from trtllm_ext.errors import CheckpointError, ConfigError
from trtllm_ext.models import encoder_config
from trtllm_ext.models.random import write_random_checkpoint

BUDGET_S = 8

STACK = stack_config(FORMS["gpt2"], hidden_size=16, ffn_hidden_size=64, num_hidden_layers=2)
ENCODER = encoder_config(
    hidden_size=16,
    ffn_hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=8,
    vocab_size=30,
    max_position_embeddings=8,
    dtype="bfloat16",
)


def bits(checkpoint):
    return {name: (values.shape, values.tobytes()) for name, values in checkpoint.weights.items()}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same encoder of random weights on 1, 2 and 4 ranks, and another one on 2."""
    folder = tmp_path_factory.mktemp("ranks")
    for ranks in (1, 2, 4):
        write_random_checkpoint(folder / f"{ranks}", with_ranks(ENCODER, ranks), seed=1)
    write_random_checkpoint(folder / "other", with_ranks(ENCODER, 2), seed=2)
    return folder


@pytest.fixture
def two(folders, tmp_path):
    """A copy of the two ranks' checkpoint, to be changed."""
    return shutil.copytree(folders / "2", tmp_path / "two")


@pytest.mark.parametrize("name", thinned(TABLE, every=3))
def test_random_weights_are_the_same_on_any_number_of_ranks(name, tmp_path):
    config = config_of(TABLE[name])
    for ranks in (1, 4):
        write_random_checkpoint(tmp_path / f"{ranks}", with_ranks(config, ranks), seed=5)
    whole, joined = load_checkpoint(tmp_path / "1"), load_whole(tmp_path / "4")
    assert joined.config == whole.config == config
    assert bits(joined) == bits(whole)
    for rank in range(4):
        part = load_checkpoint(tmp_path / "4", rank=rank)
        assert {n: v.shape for n, v in part.weights.items()} == expected_weights(part.config)


def test_an_encoder_of_random_weights_is_split_by_heads(folders):
    name = "transformer.layers.0.attention.qkv.weight"
    whole = load_checkpoint(folders / "1").weights[name]
    for rank in range(4):
        expected = np.concatenate([part[4 * rank : 4 * rank + 4] for part in np.split(whole, 3)])
        assert load_checkpoint(folders / "4", rank=rank).weights[name].tobytes() == expected.tobytes()


@pytest.mark.parametrize("stored", [1, 2, 4])
@pytest.mark.parametrize("wanted", [1, 2, 4, 8])
def test_a_checkpoint_is_read_as_any_number_of_ranks(folders, tmp_path, stored, wanted):
    config = with_ranks(ENCODER, wanted)
    write_random_checkpoint(tmp_path / "direct", config, seed=1)
    for rank in range(wanted):
        direct = load_checkpoint(tmp_path / "direct", rank=rank)
        got = load_resharded(folders / f"{stored}", wanted, rank)
        assert got.config == direct.config
        assert list(got.weights) == list(direct.weights)
        assert bits(got) == bits(direct)
        assert not any(values.flags.writeable for values in got.weights.values())


def test_parts_of_a_whole_checkpoint_are_views_of_the_file(folders):
    """But for qkv, whose rows lie in three places: it is put together. Nothing refers to more than it shows."""
    got = load_resharded(folders / "1", 2, 1).weights
    own = {name for name, values in got.items() if values.base is None or values.base.size == values.size}
    copied = {name for name in got if "attention.qkv" in name}
    assert copied <= own
    assert {name for name in got if ".mlp." in name and "proj.bias" not in name}.isdisjoint(own)
    for name, values in load_resharded(folders / "4", 2, 1).weights.items():
        whole_on_each = values.shape == expected_weights(ENCODER)[name]
        assert whole_on_each or values.base is None or values.base.size == values.size, name


def test_a_size_that_the_model_does_not_split_over(folders):
    with pytest.raises(CheckpointError, match=r"1: num_attention_heads=8 does not split over tp_size=16"):
        load_resharded(folders / "1", 16)
    with pytest.raises(CheckpointError, match=r"rank=2 is outside 0\.\.1"):
        load_resharded(folders / "1", 2, 2)
    with pytest.raises(CheckpointError, match=r"rank=2 is outside 0\.\.1"):
        load_checkpoint(folders / "2", rank=2)


def test_a_missing_rank_is_named_and_others_do_not_need_it(two):
    (two / "rank1.safetensors").unlink()
    load_checkpoint(two, rank=0)
    for load in (lambda: load_checkpoint(two, rank=1), lambda: load_whole(two)):
        with pytest.raises(
            CheckpointError, match=r"rank1\.safetensors does not exist: the weights of rank 1 of 2\. Copy all"
        ):
            load()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("2/rank0.safetensors", r"holds the weights of rank 0, not of rank 1\. Copy all files of one"),
        ("4/rank1.safetensors", r"is of a checkpoint of 4 rank\(s\), its config\.json of one of 2\. Copy"),
        (
            "1/rank0.safetensors",
            r"does not say which of 2 ranks it is for: it is of a checkpoint of a single",
        ),
        (
            "other/rank1.safetensors",
            r"is of another checkpoint than config\.json: its checkpoint_id is \w{32}, ",
        ),
    ],
)
def test_a_file_of_something_else_is_named(folders, two, source, message):
    shutil.copy(folders / source, two / "rank1.safetensors")
    load_checkpoint(two, rank=0)
    for load in (lambda: load_checkpoint(two, rank=1), lambda: load_whole(two)):
        with pytest.raises(CheckpointError, match=r"rank1\.safetensors " + message):
            load()


def test_a_config_of_something_else_is_found(folders, two, tmp_path):
    shutil.copy(folders / "other" / "config.json", two / "config.json")
    with pytest.raises(
        CheckpointError, match=r"rank0\.safetensors is of another checkpoint than config\.json"
    ):
        load_checkpoint(two)
    shutil.copytree(folders / "1", tmp_path / "one")
    shutil.copy(folders / "4" / "rank0.safetensors", tmp_path / "one" / "rank0.safetensors")
    with pytest.raises(
        CheckpointError, match=r"of a checkpoint of 4 rank\(s\), its config\.json of one of 1"
    ):
        load_checkpoint(tmp_path / "one")


def test_equal_checkpoints_have_equal_ids_and_others_do_not(folders, tmp_path):
    write_random_checkpoint(tmp_path / "again", with_ranks(ENCODER, 2), seed=1)
    for file in sorted((folders / "2").iterdir()):
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()
    ids = {
        json.loads((folders / name / "config.json").read_text())["checkpoint_id"]
        for name in ("2", "4", "other")
    }
    assert len(ids) == 3
    assert "checkpoint_id" not in json.loads((folders / "1" / "config.json").read_text())


def test_checkpoints_from_before_there_were_ids_are_read(two):
    """Neither config.json nor the files say anything of it."""
    weights = bits(load_checkpoint(two, rank=1))
    config = json.loads((two / "config.json").read_text())
    del config["checkpoint_id"], config["sha256"]
    (two / "config.json").write_text(json.dumps(config))
    for rank in range(2):
        file = two / f"rank{rank}.safetensors"
        data = file.read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        for field in ("rank", "world_size", "checkpoint_id"):
            del header["__metadata__"][field]
        text = json.dumps(header).encode().ljust(length)
        file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    assert bits(load_checkpoint(two, rank=1)) == weights


def test_ranks_that_do_not_agree_are_refused_where_no_id_tells(tmp_path):
    config = with_ranks(STACK, 2)
    write_random_checkpoint(tmp_path / "c", config)
    data = json.loads((tmp_path / "c" / "config.json").read_text())
    del data["checkpoint_id"], data["sha256"]
    (tmp_path / "c" / "config.json").write_text(json.dumps(data))
    for rank in range(2):
        file = tmp_path / "c" / f"rank{rank}.safetensors"
        weights = {name: values + np.float32(rank) for name, values in load_file(file).items()}
        save_file(weights, file)
    with pytest.raises(
        CheckpointError, match=r"mlp\.proj\.bias is whole on each rank, but rank 1 holds other values"
    ):
        load_whole(tmp_path / "c")


def test_a_bert_is_converted_over_ranks(bert_folder, tmp_path):
    folder = bert_folder()
    (folder / "tokenizer.json").write_text("{}")
    whole = convert(folder, tmp_path / "1")
    report = convert(folder, tmp_path / "2", tp_size=2)
    assert (report.converted, report.dropped) == (whole.converted, whole.dropped)
    assert report.config.mapping.world_size == 2 and load_config(tmp_path / "2") == report.config
    files = sorted(path.name for path in (tmp_path / "2").iterdir())
    assert files == ["config.json", "rank0.safetensors", "rank1.safetensors", "tokenizer.json"]
    sizes = [(tmp_path / "2" / f"rank{rank}.safetensors").stat().st_size for rank in range(2)]
    assert report.num_bytes == sum(sizes) and report.bytes_per_rank == sizes[0]
    assert bits(load_whole(tmp_path / "2")) == bits(load_checkpoint(tmp_path / "1"))


def test_a_bert_whose_heads_do_not_split_is_refused(bert_folder, tmp_path):
    with pytest.raises(
        CheckpointError, match=r"num_attention_heads=2 does not split over tp_size=3; .* model: 1, 2\."
    ):
        convert(bert_folder(), tmp_path / "c", tp_size=3)
    with pytest.raises(ConfigError, match=r"tp_size=0 must be at least 1"):
        convert(bert_folder(), tmp_path / "c", tp_size=0)
    assert not (tmp_path / "c").exists()
