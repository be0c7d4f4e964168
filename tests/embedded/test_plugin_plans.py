"""Engines with plugins as files: what they keep, what they refuse to be loaded without, and damage."""

import copy
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sample_plugins import (
    Bench,
    CircularPad,
    Creator,
    Extremes,
    NonZero,
    NumpyPlugin,
    Repeat,
    circular_pad,
    run,
)
from tiny_plans import Log, feed_forward_plan, parts_of, signed

import trtllm_ext.embedded as trt
from trtllm_ext.embedded.plan import read_plan

BUDGET_S = 6
PADS = (1, 2)
SIZES = {"x": ((1, 4), (2, 4), (8, 4))}


def padding_bench(plugin=None):
    """y = pad(relu(x)) + 0, with a segment before the plugin and one after it."""
    bench = Bench()
    (y,) = bench.plugin(
        plugin or CircularPad(CircularPad.fields_of(*PADS)), bench.relu(bench.input("x", (-1, 4)))
    )
    bench.output(bench.relu(y), "y")
    return bench


@pytest.fixture(scope="module")
def plan():
    return bytes(padding_bench().build(SIZES))


def refusal(bench, plan, *creators):
    assert bench.load(plan, *creators) is None
    return bench.log.last


# Creators


def test_an_engine_is_not_loaded_without_the_creator_of_its_plugin(plan):
    said = refusal(Bench(), plan)
    assert said == (
        "deserialize_cuda_engine: the engine needs plugin 'CircularPad' (version '1', namespace ''), which no creator "
        "is registered for. Register the creator before the engine is loaded: "
        "get_plugin_registry().register_creator(creator, namespace)."
    )


@pytest.mark.parametrize(
    ("version", "namespace", "there"),
    [("2", "", "only version '2', namespace ''"), ("1", "mine", "only version '1', namespace 'mine'")],
)
def test_another_version_or_namespace_will_not_do(plan, version, namespace, there):
    assert there in refusal(Bench(), plan, Creator(CircularPad, version, namespace))


def test_all_missing_creators_are_named_once():
    bench = Bench()
    x = bench.relu(bench.input("x", (-1, 4)))
    pad = CircularPad(CircularPad.fields_of(*PADS))
    for index in range(2):
        bench.output(bench.plugin(pad, x)[0], f"y{index}")
    bench.output(bench.plugin(Extremes(), x)[0], "low")
    plan = bench.build(SIZES)
    warnings = [line for line in bench.log.said if "cannot be loaded without" in line]
    assert len(warnings) == 2
    said = refusal(bench, plan)
    assert said.count("'CircularPad'") == said.count("'Extremes'") == 1


def test_a_creator_may_be_registered_for_the_process_the_builder_or_the_runtime(plan):
    registry, creator = trt.get_plugin_registry(), Creator(CircularPad)
    assert registry.register_creator(creator, "")
    try:
        engine = Bench().load(plan)
        assert engine is not None
    finally:
        assert registry.deregister_creator(creator)
    x = np.ones((2, 4), np.float32)
    np.testing.assert_array_equal(
        run(engine.create_execution_context(), {"x": x})["y"], circular_pad(x, PADS)
    )
    assert Bench().load(plan) is None

    bench = padding_bench()
    assert bench.builder.get_plugin_registry().register_creator(creator)
    config = bench.builder.create_builder_config()
    profile = bench.builder.create_optimization_profile()
    profile.set_shape("x", *SIZES["x"])
    config.add_optimization_profile(profile)
    assert bench.builder.build_engine_with_config(bench.network, config) is not None
    assert not bench.log.said


def test_creators_of_the_second_version_are_not_used(plan):
    class Old(trt.IPluginCreator):
        pass

    old = Old()
    old.name, old.plugin_version, old.plugin_namespace = "CircularPad", "1", ""
    assert "is no IPluginCreatorV3One" in refusal(Bench(), plan, old)


# What a plan keeps


def test_fields_come_back_as_they_were():
    given = {
        "INT32": np.array([1, -2, 3], np.int32),
        "INT64": np.array([2**40], np.int64),
        "INT8": np.array([-1], np.int8),
        "INT16": np.array([-300], np.int16),
        "FLOAT16": np.array([0.5, 2], np.float16),
        "FLOAT32": np.array([[1.5, 2], [3, 4]], np.float32),
        "FLOAT64": np.array([], np.float64),
        "CHAR": b"text",
        "UNKNOWN": bytes(range(256)),
    }

    class Full(CircularPad):
        def get_fields_to_serialize(self):
            return trt.PluginFieldCollection(
                [
                    *CircularPad.fields_of(*PADS),
                    *(
                        trt.PluginField(kind, data, trt.PluginFieldType.__members__[kind])
                        for kind, data in given.items()
                    ),
                ]
            )

    plan = padding_bench(Full(CircularPad.fields_of(*PADS))).build(SIZES)
    (record,) = read_plan(memoryview(plan)).header.plugins
    assert (record.name, record.version, record.namespace) == ("Full", "1", "")
    creator, made = Creator(Full), []
    creator.plugin_class = lambda fc, phase: made.append({one.name: one for one in fc}) or Full(fc, phase)
    assert Bench().load(plan, creator) is not None
    (fields,) = made
    for kind, data in given.items():
        field = fields[kind]
        assert field.type == trt.PluginFieldType.__members__[kind]
        want = np.frombuffer(data, np.int8) if isinstance(data, bytes) else data.reshape(-1)
        assert field.data.dtype == want.dtype and field.size == want.size
        np.testing.assert_array_equal(field.data, want)


def test_an_engine_is_saved_and_run_by_another_process(tmp_path, plan):
    (tmp_path / "engine").write_bytes(plan)
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    code = """
import sys
import numpy as np
from sample_plugins import Bench, CircularPad, Creator, run
folder = sys.argv[1]
with open(folder + "/engine", "rb") as file:
    engine = Bench().load(file.read(), Creator(CircularPad))
np.save(folder + "/y.npy", run(engine.create_execution_context(), {"x": np.load(folder + "/x.npy")})["y"])
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env=environment, timeout=60)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), circular_pad(np.maximum(x, 0), PADS))


def test_the_same_network_gives_the_same_bytes(plan):
    assert bytes(padding_bench().build(SIZES)) == plan


def test_a_network_without_plugins_is_still_one_segment():
    header = read_plan(memoryview(feed_forward_plan()[1])).header
    assert header.plugins == () and len(header.segments) == len(header.steps.steps) == 1


def test_the_inspector_says_which_plugins_are_needed(plan):
    engine = Bench().load(plan, Creator(CircularPad))
    inspector = engine.create_engine_inspector()
    told = json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
    assert told["Plugins"] == [{"Name": "CircularPad", "Version": "1", "Namespace": ""}]
    assert "needs plugin 'CircularPad' (version '1', namespace '')\n" in inspector.get_engine_information()


def test_both_load_modes(plan):
    for mode in ("prepack", "mapped"):
        runtime = trt.Runtime(Log())
        runtime.load_mode = mode
        runtime.get_plugin_registry().register_creator(Creator(CircularPad))
        context = runtime.deserialize_cuda_engine(plan).create_execution_context()
        x = np.full((2, 4), 3, np.float32)
        np.testing.assert_array_equal(run(context, {"x": x})["y"], circular_pad(x, PADS))


# Damage


def edited(plan, change):
    header, segments, weights = parts_of(plan)
    fields = json.loads(header)
    change(fields)
    return signed(json.dumps(fields).encode(), segments, weights)


def put(*path):
    *keys, last, value = path

    def change(fields):
        for key in keys:
            fields = fields[key]
        fields[last] = value

    return change


STEP = ("steps", "steps", 1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (put("plugins", []), "calls plugin 0, but there are 0"),
        (put("plugins", 0, "name", "Other"), "needs plugin 'Other'"),
        (put("plugins", 0, "name", 3), "3 at header.plugins"),
        (put("plugins", 0, "fields", 0, "data", "?"), "where base64 belongs"),
        (put("plugins", 0, "fields", 0, "data", "AAA="), "has 2 bytes, no whole number of INT32"),
        (put("plugins", 0, "fields", 0, "type", "INT33"), "where a PluginFieldType belongs"),
        (put("plugins", 0, "workspace", -1), "-1 at header.plugins"),
        (put("plugins", 0, "tactic", 2**40), "where an integer in"),
        (put(*STEP, "plugin", 1), "calls plugin 1, but there are 1"),
        (put(*STEP, "inputs", ["ghost"]), "takes 'ghost', which nothing before it makes"),
        (put(*STEP, "inputs", []), "where what the signature says belongs"),
        (
            put(*STEP, "input_types", ["float16"]),
            "is float32 in one step of the engine, and float16 in another",
        ),
        (put(*STEP, "input_types", ["float17"]), "has a tensor of type 'float17'"),
        (put(*STEP, "aliases", [[1, 0]]), "where pairs of an output and an input belongs"),
        (
            put(*STEP, "signature", "types", ["HALF"]),
            "is float16 in one step of the engine, and float32 in another",
        ),
        (put(*STEP, "signature", "types", ["WOOD"]), "are not types of outputs"),
        (put(*STEP, "signature", "nodes", [["length", 0, 9]]), "expected an integer from 0 to 7"),
        (put(*STEP, "signature", "nodes", 0, ["length", 1, 0]), "expected an integer from 0 to 0"),
        (put(*STEP, "signature", "nodes", 1, ["SUM", 0, 1]), "expected an integer from 0 to 0"),
        (put(*STEP, "signature", "nodes", 1, ["size", 0, 0, 0]), "holds a size, so it must be a 0-d INT32"),
        (put(*STEP, "signature", "nodes", 1, ["POWER", 0, 0]), "is no part of a plugin's expression"),
        (put(*STEP, "signature", "shapes", [[99]]), "expected an integer from 0 to"),
        (put(*STEP, "signature", "extra", 1), "expected an object with"),
        (put("shape_program", "steps", 1, "attributes", "signature", None), "expected an object with"),
    ],
)
def test_a_plan_that_contradicts_itself_is_refused(plan, change, reason):
    said = refusal(Bench(), edited(plan, change), Creator(CircularPad))
    assert said.startswith("deserialize_cuda_engine: ") and reason in said


def test_a_step_that_would_write_more_than_the_shape_program_says_is_refused_in_the_run(plan):
    bench = padding_bench()
    (y,) = bench.plugin(CircularPad(CircularPad.fields_of(*PADS)), bench.relu(bench.network.get_input(0)))
    bench.output(y, "z")
    header = json.loads(parts_of(bench.build(SIZES))[0])
    index = next(at for at, step in enumerate(header["steps"]["steps"]) if step["outputs"] == ["z"])

    def grow(fields):
        nodes = fields["steps"]["steps"][index]["signature"]
        place = nodes["shapes"][0][1]
        nodes["nodes"][place] = ["constant", 4000]

    context = bench.load(edited(bench.build(SIZES), grow), Creator(CircularPad)).create_execution_context()
    with pytest.raises(AssertionError, match=r"its output 0 of shape \(2, 4000\) is bound as \(2, 7\)"):
        run(context, {"x": np.ones((2, 4), np.float32)})


class Careful(NumpyPlugin):
    """Computes nothing, so that no wrong shape makes it write anywhere."""

    def enqueue(self, input_desc, output_desc, inputs, outputs, workspace, stream):
        assert all(inputs) and all(outputs)


def _places(node, path=()):
    yield path
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        yield from _places(child, (*path, key))


def test_nonsense_with_right_checksums_never_crashes():
    class Loud(Careful):
        outputs = 2
        get_output_data_types = NonZero.get_output_data_types
        supports_format_combination = NonZero.supports_format_combination
        get_output_shapes = NonZero.get_output_shapes

    class Tile(Careful):
        get_output_shapes = Repeat.get_output_shapes

    bench = Bench()
    x, times = bench.input("x", (-1, 4)), bench.input("times", (2,), trt.int32)
    bench.output(bench.plugin(Loud(), x)[0], "found")
    bench.output(bench.relu(bench.plugin(Tile(), bench.relu(x), shape_inputs=[times])[0]), "y")
    plan = bench.build(SIZES, {"times": ((1, 1), (2, 2), (3, 3))})
    header, segments, weights = parts_of(plan)
    original, rng, loaded = json.loads(header), random.Random(5), 0
    parts = ("steps", "plugins", "shape_program")
    places = [path for path in _places({key: original[key] for key in parts}) if len(path) > 1]
    values = [0, 1, -1, 7, 2**31, 2**63, None, True, "", "x", [], {}, [0], 0.5]
    for _ in range(400):
        fields = copy.deepcopy(original)
        *keys, last = rng.choice(places)
        target = fields
        for key in keys:
            target = target[key]
        target[last] = copy.deepcopy(rng.choice([*values, target[last]]))
        engine = bench.load(
            signed(json.dumps(fields).encode(), segments, weights), Creator(Loud), Creator(Tile)
        )
        if engine is not None and (context := engine.create_execution_context()) is not None:
            loaded += 1
            given = {"x": np.ones((2, 4), np.float32), "times": np.array([2, 1], np.int32)}
            context.set_tensor_address("times", given["times"].ctypes.data)
            try:
                run(context, given, late=("found",))
            except (AssertionError, MemoryError, ValueError):
                continue
    assert 0 < loaded < 400
