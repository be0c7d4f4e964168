"""The TensorRT adapters, driven by a program that plays TensorRT's part (tensorrt_player/README.md). Not TensorRT.

What is shown: through the interfaces of each release's headers the plugins say the right shapes, types and formats, are
configured, kept and made again from what was kept, compute what they should, and refuse what they should. How TensorRT
itself orders its calls is not shown here. The kernels run on the CPU, through the stand-in for CUDA.
"""

import ctypes
import json
import os
import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from feed_forward_arrays import form
from player_build import RELEASES, VARIABLE
from player_cases import (
    BEST,
    FULL_FFN,
    MOST,
    PLAIN_FFN,
    SOME,
    TENSORRT_TYPES,
    LayerCase,
    cases,
    numbers,
)

from trtllm_ext.plugin.c_interface import Activation
from trtllm_ext.plugin.feed_forward_plan import FeedForwardPlan
from trtllm_ext.plugin.kernels import load_kernels
from trtllm_ext.plugin.operation import NAMESPACE
from trtllm_ext.plugin.operations import OPERATIONS

if not os.environ.get(VARIABLE):
    pytest.skip(
        f"{VARIABLE} names no folder with TensorRT's headers ({', '.join(RELEASES)})", allow_module_level=True
    )

# With TENSORRT_HEADERS, compilation for three releases included.
BUDGET_S = 45
TYPES = {8: ("float32", "float16"), 10: ("float32", "float16", "bfloat16"), 11: ("float32", "bfloat16")}


def test_in_the_player_every_operation_is_built_kept_made_again_and_right(played, play):
    tried = cases(TYPES[played.major])
    for case in tried:
        lines = play(
            *(play.load, *play.layer(case), "create", "build", f"serialize {play.folder}/engine"),
            f"run {play.folder} {BEST}",
        )
        types = case.output_types()
        assert [line for line in lines if line in ("created 1", "configured 0")] == [
            "created 1",
            "configured 0",
        ]
        assert numbers(lines, "run") == [[0, 0, 0, 0]], lines
        assert numbers(lines, "margins") == [[1]]
        shapes = [case.shape_of(each.shape, -1) for each in case.record.outputs_of(case.fields)]
        assert [line for line in lines if line.startswith("output ")] == [
            f"output {TENSORRT_TYPES[dtype]} {'x'.join(map(str, shape))}"
            for dtype, shape in zip(types, shapes, strict=True)
        ]
        # One combination a tensor: its type, linear.
        found = [line.split(": ")[1] for line in lines if line.startswith("formats ")]
        inputs = [case.dtype] * len(case.record.inputs_of(case.fields))
        assert found == [f"{TENSORRT_TYPES[dtype]}/0" for dtype in (*inputs, *types)]
        play.check_outputs(case, BEST)

        # As a process that loads an engine later.
        lines = play(
            *(play.load, *play.layer(case), f"restore {play.folder}/engine"),
            *(f"run {play.folder} 0", f"run {play.folder} {MOST}"),
        )
        assert numbers(lines, "restored") == [[1]]
        assert numbers(lines, "run") == [[0, 0, 0, 0]] * 2, lines
        assert numbers(lines, "margins") == [[1], [1]]
        play.check_outputs(case, MOST)
    assert len(tried) > 12


def test_in_the_player_each_way_of_registration_is_right_alone_and_after_the_others(played, play):
    by_tensorrt = f"load_by_tensorrt {play.library}"
    ways = {
        (play.load,): ["loaded 1 registered 3"],
        (play.load, "init", "init"): ["loaded 1 registered 3", "init 1 registered 3", "init 1 registered 3"],
        (by_tensorrt,): ["loaded 1 registered 3"],
        (by_tensorrt, "init"): ["loaded 1 registered 3", "init 1 registered 3"],
        (play.load, by_tensorrt): ["loaded 1 registered 3", "loaded 1 registered 3"],
        (by_tensorrt, play.load, "init"): ["loaded 1 registered 3"] * 2 + ["init 1 registered 3"],
    }
    for commands, wanted in ways.items():
        assert play(*commands) == wanted


def test_without_tensorrt_in_the_process_the_library_loads_and_says_so(played, capfd):
    initialize = ctypes.CDLL(str(played.library)).initTrtllmExtPlugins
    initialize.restype = ctypes.c_bool
    assert not initialize(None)
    assert "there is no TensorRT in this process; load TensorRT" in capfd.readouterr().err


def test_in_the_player_creators_tell_the_fields_of_the_records(play):
    plugins = [(each.plugin, each.version, each.fields) for each in OPERATIONS.values()]
    lines = play(
        play.load,
        *(line for plugin, version, _ in plugins for line in (f"layer {plugin} {version} x", "names")),
    )
    assert [line.split()[1:] for line in lines if line.startswith("names")] == [
        [each.name for each in fields] for _, _, fields in plugins
    ]


def test_in_the_player_an_engine_runs_the_profiles_of_all_clones(play):
    case = SOME[2]
    lines = play(
        *(play.load, *play.layer(case), "create", "build 2", f"serialize {play.folder}/engine"),
        *(
            f"restore {play.folder}/engine",
            f"run {play.folder} {2 * MOST}",
            f"run {play.folder} {2 * MOST + 1}",
        ),
    )
    assert [status for status, *_ in numbers(lines, "run")] == [0, 4]
    assert numbers(lines, "margins") == [[1], [1]]


def test_in_the_player_choices_are_timed_in_the_build_and_kept_with_the_engine(played, play, fake_cublaslt):
    case = LayerCase(operation="feed_forward", given=FULL_FFN, dtype="float16")
    lines = play(
        *(play.load, *play.layer(case), "create", "build", f"serialize {play.folder}/engine"),
        f"run {play.folder} {BEST}",
    )
    assert not [line for line in lines if line.startswith("log ")], lines
    ((workspace_size,),) = numbers(lines, "workspace")
    assert workspace_size > 0
    lines = play(play.load, *play.layer(case), f"restore {play.folder}/engine", f"run {play.folder} {MOST}")
    assert not [line for line in lines if line.startswith("log ")], lines
    assert numbers(lines, "run") == [[0, 0, 0, 0]]
    assert numbers(lines, "margins") == [[1]]


def test_in_the_player_workspace_is_enough_for_the_plan_of_a_larger_profile(
    play, kernels_on_cpu, fake_cublaslt
):
    # 34 tokens are the last of their own plan's buckets, and one of those up to 64 in the plan of more.
    case = LayerCase(operation="feed_forward", given={"activation": Activation.RELU, "max_num_tokens": 34})
    ((workspace_size,),) = numbers(play(play.load, *play.layer(case), "create", "build"), "workspace")
    wider = form(case.hidden, case.ffn, tokens=64, dtype=case.dtype, activation="relu")
    with FeedForwardPlan(load_kernels(kernels_on_cpu), wider) as plan:
        assert workspace_size == plan.workspace_size(34)
    with FeedForwardPlan(load_kernels(kernels_on_cpu), replace(wider, max_num_tokens=34)) as plan:
        assert workspace_size > plan.workspace_size()


def test_in_the_player_a_build_without_memory_to_time_with_goes_on_untimed(play, fake_cublaslt):
    case = LayerCase(operation="feed_forward", given=PLAIN_FFN)
    script = [play.load, *play.layer(case), "create", "build", f"run {play.folder} {BEST}"]
    assert not [line for line in play(*script) if line.startswith("log ")]
    lines = play(*script, MOST_TUNING_MEMORY="100")
    assert numbers(lines, "configured") == [[0]]
    assert numbers(lines, "run") == [[0, 0, 0, 0]], lines
    assert any(
        "the layer is not tuned: no 1024 bytes of device memory to tune with" in line for line in lines
    )
    play.check_outputs(case, BEST)


def test_in_the_player_an_engine_is_kept_with_the_choices_of_a_clone_that_is_gone(play, fake_cublaslt):
    case = LayerCase(operation="feed_forward", given=PLAIN_FFN)
    engine = f"serialize {play.folder}/engine"
    lines = play(
        *(play.load, *play.layer(case), "create", "build 2", engine, engine), MOST_TUNING_MEMORY="100"
    )
    # A plan says so when it is made: one for each profile, and none in order to be told of.
    assert len([line for line in lines if "the layer is not tuned" in line]) == 2, lines


def test_in_the_player_layers_leave_no_host_memory_behind(play):
    for case in SOME:
        engine = play.folder / "engine"
        layer = play.layer(case)
        once = [
            *(*layer, "create", "build", f"serialize {engine}", f"run {play.folder} {BEST}"),
            *(f"restore {engine}", f"run {play.folder} {BEST}", "drop", f"damage {engine} 9", "allocations"),
        ]
        lines = play(play.load, *once, *once, *once)
        _, second, third = numbers(lines, "allocations")
        assert second == third


def test_the_library_shows_its_interface_alone_and_says_what_it_is(played):
    tool = shutil.which("nm")
    if tool is None:
        pytest.skip("no nm on the PATH")
    told = subprocess.run(
        [tool, "-D", "--defined-only", str(played.library)], capture_output=True, text=True, check=True
    )
    creators = "getCreators" if played.major >= 10 else "getPluginCreators"
    assert {line.split()[-1] for line in told.stdout.splitlines()} == {
        creators,
        "setLoggerFinder",
        "initTrtllmExtPlugins",
    }
    needed = subprocess.run(
        [tool, "-D", "-u", str(played.library)], capture_output=True, text=True, check=True
    )
    assert "getPluginRegistry" not in needed.stdout
    (info,) = re.findall(
        rb"TRTLLM_EXT_PLUGINS_INFO_BEGIN(.*?)TRTLLM_EXT_PLUGINS_INFO_END", played.library.read_bytes()
    )
    info = json.loads(info)
    assert info["tensorrt"].startswith(played.release.removeprefix("v"))
    assert info["tensorrt_major"] == played.major
    assert info["kernels_abi"] == 1
    assert info["plugins"] == [
        {"name": each.plugin, "version": each.version, "namespace": NAMESPACE} for each in OPERATIONS.values()
    ]
