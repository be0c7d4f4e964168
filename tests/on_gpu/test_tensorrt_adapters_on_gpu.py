"""The TensorRT adapters and their kernels on a GPU, driven by a program that plays TensorRT's part. Not TensorRT.

TENSORRT_PLAYED names a folder with a folder a release, as tests/plugins/player_build.py writes them ahead: the program
and the plugin library, both compiled against that release's headers.
"""

import os
import re
from pathlib import Path

import pytest
from gpu import kernels_or_skip
from player_cases import BEST, FULL_NORM, GATED, MOST, PLAIN_FFN, LayerCase, Session, cases

BUDGET_S = 120
# Each is waited for and looked at: all cases so often would take minutes. test_graph_replays_on_gpu.py has more.
REPLAYS, FEWER_REPLAYS = 10_000, 200
VARIABLE = "TENSORRT_PLAYED"


def releases():
    folder = os.environ.get(VARIABLE)
    return sorted(path.name for path in Path(folder).iterdir()) if folder else []


kernels_or_skip()
if not releases():
    pytest.skip(
        f"{VARIABLE} names no folder that tests/plugins/player_build.py wrote", allow_module_level=True
    )


@pytest.fixture(params=releases())
def play(request, tmp_path):
    folder = Path(os.environ[VARIABLE]) / request.param
    return Session(folder / "player", folder / "libtrtllm_ext_plugins.so", tmp_path)


def types(play):
    return ("float32", "float16") if play.program.parent.name.startswith("v8") else ("float32", "bfloat16")


def statuses(lines, word):
    return [re.findall(r"-?\d+", line) for line in lines if line.startswith(f"{word} ")]


def test_in_the_player_every_operation_is_built_kept_made_again_and_right_on_a_gpu(play):
    for case in cases(types(play), hidden=256, ffn=1024):
        lines = play(
            *(play.load, *play.layer(case), "create", "build", f"serialize {play.folder}/engine"),
            *(f"run {play.folder} 0", f"run {play.folder} {BEST}"),
        )
        assert statuses(lines, "run") == [["0", "0", "0", "0"]] * 2, lines
        assert statuses(lines, "margins") == [["1"]] * 2
        play.check_outputs(case, BEST)
        lines = play(
            play.load, *play.layer(case), f"restore {play.folder}/engine", f"run {play.folder} {MOST}"
        )
        assert statuses(lines, "run") == [["0", "0", "0", "0"]], lines
        assert statuses(lines, "margins") == [["1"]]
        play.check_outputs(case, MOST)


def test_in_the_player_graph_replays_are_bitwise_equal_on_a_gpu(play):
    for case in cases(types(play), hidden=256, ffn=1024):
        often = case.dtype != "float32" and case.given in (FULL_NORM, GATED, PLAIN_FFN)
        replays = REPLAYS if often else FEWER_REPLAYS
        lines = play(
            *(play.load, *play.layer(case), "create", "build", f"serialize {play.folder}/engine"),
            *(f"restore {play.folder}/engine", f"run {play.folder} {MOST}", f"replay {replays}"),
        )
        assert f"replays {replays} captured 1 same {replays}" in lines, lines
        play.check_outputs(case, MOST)


def test_in_the_player_refusals_leave_no_cuda_error_on_a_gpu(play):
    case = LayerCase(operation="feed_forward", given=PLAIN_FFN, hidden=256, ffn=1024)
    lines = play(
        *(play.load, *play.layer(case), "create", "build", f"serialize {play.folder}/engine"),
        *(f"restore {play.folder}/engine", f"run {play.folder} {MOST + 1}", f"run {play.folder} {MOST}"),
    )
    refused, after = statuses(lines, "run")
    assert refused[0] == "4" and refused[2:] == ["0", "0"]
    assert after == ["0", "0", "0", "0"]
    play.check_outputs(case, MOST)
