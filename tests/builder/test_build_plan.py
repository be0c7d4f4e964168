"""Dry runs: what each rank would get, counted by hand."""

from dataclasses import replace

import pytest
from ranked_stacks import FFN, HIDDEN, LAYERS, damage, names, stack_config, write_stack

import trtllm_ext as tx
from trtllm_ext.builder import plan_build
from trtllm_ext.builder.collectives import CollectiveUse
from trtllm_ext.cli import main as cli
from trtllm_ext.cli.plan_table import print_plan
from trtllm_ext.errors import CheckpointError, ConfigError
from trtllm_ext.models import encoder_config, model_from_checkpoint

BUDGET_S = 4
MOST = 32
LIMITS = tx.BuildConfig(max_num_tokens=MOST, opt_num_tokens=16)
SIZE = {"float32": 4, "float16": 2, "bfloat16": 2}


def weight_values(ranks):
    """Of a rank: both matrices and fc's bias split, proj's bias and the norms (weight, bias) whole."""
    layer = 2 * HIDDEN * FFN // ranks + FFN // ranks + HIDDEN + 2 * HIDDEN
    return LAYERS * layer + 2 * HIDDEN


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_stack(tmp_path_factory.mktemp("checkpoints") / "of2", 2)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_plan_by_hand(tmp_path, dtype):
    plan = plan_build(write_stack(tmp_path / "c", 2, dtype=dtype), LIMITS)
    assert [each.rank for each in plan.ranks] == [0, 1]
    for each in plan.ranks:
        assert each.weight_bytes == weight_values(2) * SIZE[dtype]
        assert each.inputs[0].profiles == (((1, HIDDEN), (16, HIDDEN), (MOST, HIDDEN)),)
        assert [(tensor.name, tensor.dtype) for tensor in each.outputs] == [("hidden_states_out", dtype)]
        # One a sublayer, of partial sums in float32.
        size = MOST * HIDDEN * 4
        assert each.collectives == (
            CollectiveUse("all_reduce", "float32", (0, 1), LAYERS, size, LAYERS * size),
        )


def test_the_sizes_of_sequence_parallelism(checkpoint):
    """Tokens are gathered before each pair of matrices and once at the end, and scattered after each."""
    uses = (
        plan_build(checkpoint, LIMITS.updated(sequence_parallel=True, max_num_tokens=31)).ranks[1].collectives
    )
    size = 32 * HIDDEN * 4  # the next number of tokens that two ranks share
    assert sorted((use.kind, use.count, use.largest_bytes, use.total_bytes) for use in uses) == [
        ("all_gather", LAYERS + 1, size, (LAYERS + 1) * size),
        ("reduce_scatter", LAYERS, size, LAYERS * size),
    ]


@pytest.mark.parametrize(("sequence_parallel", "more"), [(False, 0), (True, LAYERS)])
def test_tokens_are_gathered_for_taps_that_are_asked_for(checkpoint, sequence_parallel, more):
    limits = LIMITS.updated(sequence_parallel=sequence_parallel)
    plain, tapped = (
        sum(use.count for use in plan_build(checkpoint, limits.updated(taps=taps)).ranks[0].collectives)
        for taps in ((), ("*.contribution",))
    )
    assert tapped == plain + more


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_another_number_of_ranks_as_if_it_were_converted(checkpoint, tmp_path, ranks):
    converted = plan_build(write_stack(tmp_path / "c", ranks), LIMITS)
    assert plan_build(checkpoint, LIMITS, tp_size=ranks).ranks == converted.ranks


def test_many_ranks_of_what_has_no_weights_at_all(tmp_path):
    config = stack_config(1)
    (tmp_path / "config.json").write_text(config.to_json())
    plan = plan_build(tmp_path, LIMITS, tp_size=48)
    assert [each.rank for each in plan.ranks] == list(range(48))
    assert {each.weight_bytes for each in plan.ranks} == {weight_values(48) * 4}
    assert {each.collectives[0].group for each in plan.ranks} == {tuple(range(48))}
    assert plan.config.world_size == 48


def test_an_encoder(tmp_path):
    config = encoder_config(
        hidden_size=16,
        ffn_hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        vocab_size=50,
        max_position_embeddings=12,
    )
    (tmp_path / "config.json").write_text(config.to_json())
    plan = plan_build(tmp_path, tx.BuildConfig(max_batch_size=2), tp_size=4)
    [use] = plan.ranks[3].collectives
    assert (use.kind, use.group, use.count) == ("all_reduce", (0, 1, 2, 3), 6)  # attention and feed-forward
    assert use.largest_bytes == 2 * 12 * 16 * 4
    with pytest.raises(
        ConfigError, match=r"does not split over tp_size=3; tp sizes that do for this model: 1, 2, 4\."
    ):
        plan_build(tmp_path, tp_size=3)


def test_one_rank_is_what_a_dry_run_of_its_model_says(tmp_path):
    checkpoint = write_stack(tmp_path / "c", 1)
    [plan] = plan_build(checkpoint, LIMITS).ranks
    engine = tx.build(model_from_checkpoint(checkpoint), LIMITS.updated(dry_run=True))
    assert (plan.inputs, plan.outputs) == (engine.inputs, engine.outputs)
    assert (plan.weight_bytes, plan.collectives) == (weight_values(1) * 4, ())


def test_every_rank_is_checked(tmp_path):
    damage(write_stack(tmp_path / "c", 2), 1)
    with pytest.raises(CheckpointError, match=r"^rank 1: .* is damaged"):
        plan_build(tmp_path / "c", LIMITS)


def test_the_command_line(checkpoint, tmp_path, capsys):
    paths = ["--checkpoint_dir", str(checkpoint), "--output_dir", str(tmp_path / "engine")]
    assert cli.main(["build", *paths, "--max_num_tokens", "32", "--dry_run"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[:4] == [
        "dry run: the networks of 2 ranks are complete; nothing was built",
        "tensors of ranks 0,1",
        f"  in   hidden_states float32 (1, {HIDDEN}) to (32, {HIDDEN})",
        f"  out  hidden_states_out float32 (-1, {HIDDEN})",
    ]
    assert told[4].split() == ["rank", "weights", "layers", "collectives", "bytes", "a", "run"]
    rows = [line.split() for line in told[5:7]]
    assert [row[0] for row in rows] == ["0,1", "all"]
    assert rows[0][1:3] == ["13.2", "kB"]
    assert rows[1][1:3] == ["26.4", "kB"]
    assert rows[0][4:] == [str(LAYERS), "4.1", "kB"]
    assert told[7] == "collectives of a run with the largest inputs"
    assert told[9].split() == ["0,1", "2", "2.0", "kB", "4.1", "kB", "all_reduce", "float32", "0,1"]
    assert names(tmp_path) == []


def test_rows_of_ranks_that_differ(checkpoint, capsys):
    """Only neighbours share a row: the weights in the table stay in the order of the ranks."""
    plan = plan_build(checkpoint, LIMITS, tp_size=8)
    sizes = (2000, 2000, 2000, 1000, 1000, 2000, 3000, 2000)
    ranks = [replace(rank, weight_bytes=size) for rank, size in zip(plan.ranks, sizes, strict=True)]
    print_plan(replace(plan, ranks=tuple(ranks)))
    told = [line.split() for line in capsys.readouterr().out.splitlines()]
    begin = next(index for index, words in enumerate(told) if words[:2] == ["rank", "weights"])
    rows = [(words[0], float(words[1])) for words in told[begin + 1 : begin + 7]]
    assert rows == [("0..2", 2), ("3,4", 1), ("5", 2), ("6", 3), ("7", 2), ("all", 15)]


def test_the_command_line_for_other_ranks(checkpoint, tmp_path, capsys):
    paths = ["--checkpoint_dir", str(checkpoint), "--output_dir", str(tmp_path / "engine")]
    assert cli.main(["build", *paths, "--dry_run", "--tp_size", "32"]) == 0
    told = capsys.readouterr().out
    assert "tensors of ranks 0..31" in told
    assert len(told.splitlines()) == 4 + 1 + 2 + 3
    assert [line.split()[0] for line in told.splitlines()[5:7]] == ["0..31", "all"]
    assert told.splitlines()[-1].split()[-1] == "0..31"
    assert cli.main(["build", *paths, "--dry_run", "--tp_size", "1"]) == 0
    assert "of weights, " in capsys.readouterr().out
    assert cli.main(["build", *paths, "--tp_size", "32"]) == 1
    said = capsys.readouterr().err
    assert "--tp_size 32 is for --dry_run" in said
    assert "convert the model with --tp_size 32, or write the checkpoint with a config whose mapping" in said
    assert said.endswith(" has tp_size 32.\n")
    assert names(tmp_path) == []
