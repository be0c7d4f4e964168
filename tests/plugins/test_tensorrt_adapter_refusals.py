"""What the TensorRT adapters refuse, through a program that plays TensorRT's part (tensorrt_player). Not TensorRT."""

import os

import pytest
from player_build import RELEASES, VARIABLE
from player_cases import BEST, GATED, MOST, NORM, PLAIN_FFN, SOME, LayerCase, numbers, sentence

if not os.environ.get(VARIABLE):
    pytest.skip(
        f"{VARIABLE} names no folder with TensorRT's headers ({', '.join(RELEASES)})", allow_module_level=True
    )

# With TENSORRT_HEADERS; all is compiled before, unless this file runs alone.
BUDGET_S = 45


def test_in_the_player_a_damaged_layer_is_not_made(played, play):
    for case in SOME:
        engine = play.folder / "engine"
        other = "ResidualNorm" if case.operation != "residual_norm" else "FeedForward"
        lines = play(
            *(play.load, *play.layer(case), "create", "build", f"serialize {engine}", f"damage {engine} 1"),
            *(f"layer {other} 1 other", f"restore {engine}"),
        )
        ((num_damaged, num_taken),) = numbers(lines, "damaged")
        assert num_damaged > 50 and num_taken == 0
        assert numbers(lines, "restored") == [[0]]
        if played.major < 10:
            assert f"a layer of operation '{case.record.plugin}'; '{other}' is expected" in sentence(lines)
        else:
            assert f"{other} 'other': the layer's fields are damaged, or those of another" in sentence(lines)


def test_in_the_player_a_layer_of_a_newer_library_is_refused_with_both_formats(played, play):
    engine = play.folder / "engine"
    layer = play.layer(SOME[1])
    play(play.load, *layer, "create", "build", f"serialize {engine}")
    kept = bytearray(engine.read_bytes())
    # After the size of the workspace and the magic; or after the name of the field.
    at = 16 if played.major < 10 else kept.index(b".format") + len(b".format")
    assert kept[at] == 1
    kept[at] = 2
    engine.write_bytes(kept)
    lines = play(play.load, *layer, f"restore {engine}")
    assert numbers(lines, "restored") == [[0]]
    assert "a layer of format 2; this library reads format 1" in sentence(lines)


def test_in_the_player_bytes_that_end_early_are_refused(played, play):
    if played.major >= 10:
        pytest.skip("TensorRT 10 and later keep fields, not one string of bytes")
    engine = play.folder / "engine"
    layer = play.layer(SOME[2])
    play(play.load, *layer, "create", "build", f"serialize {engine}")
    whole = engine.read_bytes()
    shorter = [play.folder / f"engine{size}" for size in (8, 9, 20, 28, 60, len(whole) - 1)]
    for path in shorter:
        path.write_bytes(whole[: int(path.name.removeprefix("engine"))])
    (play.folder / "longer").write_bytes(whole + b"\0")
    lines = play(play.load, *layer, *(f"restore {path}" for path in (*shorter, play.folder / "longer")))
    assert numbers(lines, "restored") == [[0]] * (len(shorter) + 1)


def test_in_the_player_a_tensorrt_of_another_major_version_is_left_alone(played, play):
    lines = play(play.load, "init", PLAYED_MAJOR="9")
    assert lines[0] == "loaded 1 registered 0"
    assert lines[-1] == "init 0 registered 0"


@pytest.mark.parametrize(
    ("plugin", "fields", "wanted"),
    [
        ("GatedActivation", [], "made without a collection of fields"),
        ("GatedActivation", ["int32 type 1"], "field 'activation' is missing"),
        (
            "GatedActivation",
            ["int32 type 1", "int32 activation 99"],
            "'activation' is 99; 0 to 8 are expected",
        ),
        ("GatedActivation", ["int32 type 4", "int32 activation 1"], "'type' is 4; 1 to 3 are expected"),
        (
            "GatedActivation",
            ["int32 typo 1"],
            "'typo' is not one of GatedActivation version 1; it has type, ",
        ),
        ("GatedActivation", ["int32 type 1", "int32 type 1"], "field 'type' is given twice"),
        ("GatedActivation", ["float32 type 1"], "field 'type' is float32; int32 is expected"),
        ("GatedActivation", ["float64 type 1"], "field 'type' is of type 2; int32 or float32 is expected"),
        ("GatedActivation", ["int32 type 1 1"], "field 'type' has 2 values; one is expected"),
        (
            "GatedActivation",
            ["int32 type 1", "int32 activation 1", "float32 clamp nan"],
            "field 'clamp' is not a finite number",
        ),
        ("ResidualNorm", ["int32 type 1", "int32 norm 2"], "field 'eps' is 0.0"),
        ("ResidualNorm", ["int32 type 1", "int32 norm 0", "int32 has_sum 0"], "the sum is the only output"),
        (
            "ResidualNorm",
            ["int32 type 1", "int32 norm 2", "float32 eps 1e-5", "int32 quantized_type 2"],
            "field 'quantized_type' is 2",
        ),
        (
            "FeedForward",
            ["int32 type 1", "int32 activation 1", "int32 has_gate_bias 1"],
            "a gate's bias needs a gate",
        ),
        ("FeedForward", ["int32 type 1", "int32 activation 1", "int32 gated 2"], "'gated' is 2; 0 to 1"),
    ],
)
def test_in_the_player_a_layer_is_not_made_of_wrong_fields(play, plugin, fields, wanted):
    lines = play(play.load, f"layer {plugin} 1 layers.0", *(f"field {each}" for each in fields), "create")
    assert "created 0" in lines
    assert f"{plugin} 'layers.0': " in sentence(lines)
    assert wanted in sentence(lines)


def test_in_the_player_types_that_a_release_lacks_are_refused_by_name(played, play):
    for case, wanted in (
        (
            LayerCase(operation="gated_activation", given=GATED, dtype="bfloat16"),
            "TensorRT 8 has no bfloat16",
        ),
        (
            LayerCase(operation="residual_norm", given={**NORM, "quantized_type": 5}),
            "TensorRT 8 has no float8",
        ),
    ):
        lines = play(play.load, *play.layer(case), "create")
        if played.major >= 10:
            assert "created 1" in lines
        else:
            assert "created 0" in lines
            assert wanted in sentence(lines)


def test_in_the_player_more_tokens_than_planned_are_refused_and_the_layer_goes_on(played, play):
    case = SOME[2]
    lines = play(
        *(play.load, *play.layer(case), "create", "build", f"serialize {play.folder}/engine"),
        *(f"restore {play.folder}/engine", f"run {play.folder} {MOST + 1}", f"run {play.folder} {MOST}"),
    )
    refused, after = numbers(lines, "run")
    # V2 has no status for a change of shapes; both return TOO_MANY_TOKENS from enqueue.
    assert refused == [4, 0 if played.major < 10 else 4, 0, 0]
    assert after == [0, 0, 0, 0]
    assert any(
        "17 tokens; the layer was planned for at most 16. Raise the field max_num_tokens" in line
        for line in lines
    )
    play.check_outputs(case, MOST)


def test_in_the_player_a_profile_beyond_max_num_tokens_is_refused(play):
    case = LayerCase(operation="feed_forward", given={**PLAIN_FFN, "max_num_tokens": 8})
    lines = play(play.load, *play.layer(case), "create", "build")
    assert numbers(lines, "configured") == [[4]]
    assert any("16 tokens; the layer was planned for at most 8" in line for line in lines)


def test_in_the_player_weights_that_do_not_fit_are_refused(play):
    lines = play.layer(SOME[2])
    lines = [line.replace("32x16 32x16 32x16", "32x8 32x8 32x8") for line in lines]
    lines = play(play.load, *lines, "create", "build")
    assert numbers(lines, "configured") == [[1]]
    assert "input 'fc_weight' is (32, 8); 16 as its last dimension is expected" in "".join(lines)


@pytest.mark.parametrize("device", ["80", "none"])
def test_in_the_player_a_device_without_code_is_refused_in_the_build_and_in_the_engine(play, device):
    for case in SOME:
        play(play.load, *play.layer(case), "create", "build", f"serialize {play.folder}/engine")
        lines = play(
            *(play.load, *play.layer(case), "create", "build", f"run {play.folder} {BEST}"),
            f"restore {play.folder}/engine",
            CUDA_ON_CPU_DEVICE=device,
        )
        assert numbers(lines, "configured") == [[3]]
        assert numbers(lines, "restored") == [[0]]
        ((run, *_, cuda, left),) = numbers(lines, "run")
        assert run != 0 and cuda == left == 0
        assert any("(UNSUPPORTED_DEVICE)" in line for line in lines)
