"""`verify`: a model over several ranks beside the same on one, and what it says when they differ."""

import re
from dataclasses import replace

import pytest
from sampling import thinned

from trtllm_ext.cli import main as cli
from trtllm_ext.errors import ConfigError
from trtllm_ext.models.random import write_random_checkpoint
from trtllm_ext.models.sublayer_stack import sublayer_stack_config
from trtllm_ext.parallel import Mapping
from trtllm_ext.verify import ranks as verification

BUDGET_S = 8

pytestmark = pytest.mark.usefixtures("one_thread")


def write(path, ranks, dtype="float32", seed=0, stream="model", **form):
    config = sublayer_stack_config(
        hidden_size=16, ffn_hidden_size=32, num_hidden_layers=2, dtype=dtype, **form
    )
    feed_forward = config.contract.feed_forward
    feed_forward = replace(feed_forward, residual=replace(feed_forward.residual, stream_dtype=stream))
    config = replace(config, contract=replace(config.contract, feed_forward=feed_forward))
    config = replace(config, mapping=Mapping(world_size=ranks, tp_size=ranks))
    write_random_checkpoint(path, config, seed=seed)
    return str(path)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return write(tmp_path_factory.mktemp("two") / "checkpoint", 2)


@pytest.fixture(scope="module")
def engine(two, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("engine") / "engine")
    assert cli.main(["build", "--checkpoint_dir", two, "--output_dir", path, "--max_num_tokens", "32"]) == 0
    return path


def verify(capsys, *arguments):
    """Exit code, the rows of the table, and stderr without what tells of the progress."""
    capsys.readouterr()
    code = cli.main(["verify", *map(str, arguments)])
    told = capsys.readouterr()
    rows = [line for line in told.out.splitlines() if line.startswith("hidden_states")]
    errors = [line for line in told.err.splitlines() if not line.startswith("verify: ")]
    return code, rows, "\n".join(errors)


ALLOWED = {"float32": 1e-5, "float16": 5e-3, "bfloat16": 4e-2}


@pytest.mark.parametrize("dtype", ALLOWED)
def test_types_and_shapes(tmp_path, capsys, dtype):
    """A narrow type's rows, then those of a float32 copy."""
    checkpoint = write(tmp_path / "checkpoint", 2, dtype, gated=True, norm="rms_norm", hidden_act="silu")
    code, rows, errors = verify(capsys, "--checkpoint_dir", checkpoint, "--max_num_tokens", 32)
    assert (code, errors) == (0, "")
    expected = [[f"hidden_states ({n}, 16)", each] for each in {dtype: 0, "float32": 0} for n in (1, 8, 32)]
    assert [re.split(" {2,}", row)[:2] for row in rows] == expected
    assert all(row.endswith("yes") for row in rows)
    for row, (_, of) in zip(rows, expected, strict=True):
        difference, tolerance = map(float, row.split()[-3:-1])
        assert difference <= tolerance == ALLOWED[of]


@pytest.mark.parametrize(("dtype", "stream"), [("float16", "float32"), ("bfloat16", "model")])
def test_what_roundings_of_a_narrow_type_hide(tmp_path, capsys, monkeypatch, dtype, stream):
    """A bias that counts a little more on the ranks: within what the type allows, far out of float32's."""

    def load_resharded(*arguments, **settings):
        checkpoint = real(*arguments, **settings)
        weights = dict(checkpoint.weights)
        for name in weights:
            if name.endswith("proj.bias"):
                weights[name] = (weights[name].astype("float32") * factor).astype(weights[name].dtype)
        return replace(checkpoint, weights=weights)

    checkpoint = write(tmp_path / "checkpoint", 2, dtype, stream=stream)
    real, factor = verification.load_resharded, 1.01
    monkeypatch.setattr(verification, "load_resharded", load_resharded)
    code, rows, errors = verify(capsys, "--checkpoint_dir", checkpoint, "--max_num_tokens", 8)
    narrow, wide = rows[:2], rows[2:]
    assert [row.split()[3] for row in (*narrow, *wide)] == [dtype] * 2 + ["float32"] * 2
    assert all(float(row.split()[-3]) <= ALLOWED[dtype] for row in narrow)
    assert all(float(row.split()[-3]) > 1e-4 for row in wide)
    assert (code, errors) == (
        1,
        "trtllm-ext: error: 2 of 4 runs of several ranks do not give what one rank gives.",
    )


@pytest.mark.parametrize("dtype", thinned(["float16", "float32"], every=2))
def test_a_note_of_what_engines_of_a_narrow_type_may_hide(tmp_path, capsys, dtype):
    checkpoint, path = write(tmp_path / "checkpoint", 2, dtype), str(tmp_path / "engine")
    given = ["--checkpoint_dir", checkpoint, "--max_num_tokens", "8"]
    assert cli.main(["build", *given, "--output_dir", path]) == 0
    capsys.readouterr()
    for arguments, expected in (
        (["--checkpoint_dir", checkpoint, "--engine_dir", path], dtype != "float32"),
        (given, False),
    ):
        assert cli.main(["verify", *arguments]) == 0
        told = capsys.readouterr().out
        assert ("note: engines of float16 are compared within their roundings" in told) == expected


@pytest.mark.parametrize(
    "options",
    [pytest.param([], marks=pytest.mark.long), ["--sequence_parallel"]],
    ids=["plain", "sequence parallel"],
)
def test_another_number_of_ranks(two, capsys, options):
    limits = ["--max_num_tokens", 8]
    for ranks in (4, 8):
        code, rows, errors = verify(
            capsys, "--checkpoint_dir", two, "--simulate_ranks", ranks, *limits, *options
        )
        assert (code, errors, len(rows)) == (0, "", 2)


def test_the_headings(two, capsys):
    assert cli.main(["verify", "--checkpoint_dir", two, "--max_num_tokens", "1"]) == 0
    headings = re.split(" {2,}", capsys.readouterr().out.splitlines()[0].strip())
    assert headings == ["inputs", "type", "worst output", "difference", "allowed", "same bits"]


def test_a_checkpoint_of_one_rank(tmp_path, capsys):
    one = write(tmp_path / "one", 1)
    code, rows, errors = verify(capsys, "--checkpoint_dir", one, "--max_num_tokens", 8)
    assert (code, rows) == (1, [])
    assert "is a checkpoint of one rank" in errors
    assert "--simulate_ranks 2" in errors
    assert "or write the checkpoint with a config whose mapping has tp_size 2" in errors
    assert verify(capsys, "--checkpoint_dir", one, "--max_num_tokens", 8, "--simulate_ranks", 2)[0] == 0


@pytest.mark.parametrize("num_ranks", [0, 1])
def test_a_number_of_ranks_that_compares_nothing(two, num_ranks):
    with pytest.raises(ConfigError, match=rf"num_ranks={num_ranks}: give 2 or more ranks"):
        next(verification.verify(two, num_ranks=num_ranks))


def test_an_engine_directory(two, engine, capsys):
    code, rows, errors = verify(capsys, "--checkpoint_dir", two, "--engine_dir", engine, "--simulate_ranks")
    assert (code, errors, len(rows)) == (0, "", 3)


@pytest.mark.parametrize("asked", [["--taps", "*.contribution"], ["--enable_debug_output"]], ids=str)
def test_taps_of_an_engine_are_left_out(two, tmp_path, capsys, monkeypatch, asked):
    path, built = str(tmp_path / "engine"), []
    given = ["--checkpoint_dir", two, "--output_dir", path, "--max_num_tokens", "8", *asked]
    assert cli.main(["build", *given]) == 0

    def build(model, config):
        built.append(real(model, config))
        return built[-1]

    real = verification.build
    monkeypatch.setattr(verification, "build", build)
    code, rows, errors = verify(capsys, "--checkpoint_dir", two, "--engine_dir", path)
    assert (code, errors, len(rows)) == (0, "", 2)
    assert [[output.name for output in engine.outputs] for engine in built] == [["hidden_states_out"]]


def test_engines_that_were_stripped_and_filled(two, tmp_path, capsys):
    """The whole model beside them is built with its weights."""
    for command in (
        ["build", "--output_dir", str(tmp_path / "e"), "--max_num_tokens", "8", "--strip_plan"],
        ["refit", "--engine_dir", str(tmp_path / "e"), "--output_dir", str(tmp_path / "e")],
    ):
        assert cli.main([*command, "--checkpoint_dir", str(two)]) == 0
    code, rows, errors = verify(capsys, "--checkpoint_dir", two, "--engine_dir", tmp_path / "e")
    assert (code, errors, len(rows)) == (0, "", 2)


def test_an_engine_of_other_weights(engine, tmp_path, capsys):
    other = write(tmp_path / "other", 2, seed=5)
    code, rows, errors = verify(capsys, "--checkpoint_dir", other, "--engine_dir", engine)
    assert code == 1
    assert errors == "trtllm-ext: error: 3 of 3 runs of several ranks do not give what one rank gives."
    assert all(float(row.split()[-3]) > 0.01 for row in rows)


def test_an_engine_of_another_contract(engine, tmp_path, capsys):
    other = write(tmp_path / "other", 2, hidden_act="gelu_erf")
    code, rows, errors = verify(capsys, "--checkpoint_dir", other, "--engine_dir", engine)
    assert (code, rows) == (1, [])
    assert "is of another model than" in errors


def test_rank_files_that_were_swapped(two, tmp_path, capsys):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(two, copy)
    one, other = (copy / f"rank{rank}.safetensors" for rank in (0, 1))
    one.rename(copy / "aside")
    other.rename(one)
    (copy / "aside").rename(other)
    code, rows, errors = verify(capsys, "--checkpoint_dir", copy, "--max_num_tokens", 8)
    assert (code, rows) == (1, [])
    assert "rank0.safetensors" in errors


def test_ranks_whose_bits_differ(two, capsys, monkeypatch):
    from trtllm_ext.runtime.ranks.rehearsal import Rehearsal

    run = Rehearsal.run

    def spoilt(self, inputs):
        outputs = run(self, inputs)
        outputs[1]["hidden_states_out"].reshape(-1).view("uint32")[0] ^= 1
        return outputs

    monkeypatch.setattr(Rehearsal, "run", spoilt)
    code, rows, _ = verify(capsys, "--checkpoint_dir", two, "--max_num_tokens", 1)
    assert code == 1
    assert [row.split()[-1] for row in rows] == ["NO"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--simulate_ranks", "1"], "give 2 or more ranks"),
        (["--simulate_ranks", "3"], "3"),
        (["--engine_dir", "x", "--max_num_tokens", "8"], "--max_num_tokens says how engines are built"),
        (["--engine_dir", "nowhere"], "does not exist"),
    ],
)
def test_refusals(two, capsys, arguments, message):
    code, rows, errors = verify(capsys, "--checkpoint_dir", two, *arguments)
    assert (code, rows) == (1, [])
    assert message in errors
    assert errors.count("\n") == 0


def test_an_engine_of_another_number_of_ranks(two, engine, capsys):
    arguments = ["--checkpoint_dir", two, "--engine_dir", engine, "--simulate_ranks", 4]
    assert "it cannot be tried with 4" in verify(capsys, *arguments)[2]
