"""The plan file: what is written is read back, one pass, and what is inside says exactly one thing."""

import hashlib
import json

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_plans import feed_forward_plan, parts_of, signed

from trtllm_ext.embedded.plan import (
    Header,
    OnnxStep,
    ProfileRecord,
    SegmentRecord,
    SegmentWeight,
    SequenceStep,
    TensorRecord,
    WeightRecord,
    read_plan,
    write_plan,
)
from trtllm_ext.embedded.plan.layout import CHUNK_BYTES, PAGE_BYTES
from trtllm_ext.embedded.plan.onnx_model import Initializer, external_initializers, lasting_initializers
from trtllm_ext.errors import BuildError, EngineError

BUDGET_S = 10


def header_for(segments, weights):
    """A header over raw segments and weights: one segment uses all weights, as uint8 vectors."""
    records, offset = [], 0
    for block in weights:
        records.append(WeightRecord(offset=offset, nbytes=len(block)))
        offset = -(-(offset + len(block)) // 64) * 64
    tables, start = [], 0
    for number, model in enumerate(segments):
        used = tuple(
            SegmentWeight(name=f"w{index}", block=index, onnx_type=2, shape=(len(block),), is_folded=False)
            for index, block in enumerate(weights)
        )
        tables.append(SegmentRecord(offset=start, nbytes=len(model), weights=used if number == 0 else ()))
        start += len(model)
    size = ((1, 2), (4, 2), (8, 2))
    return Header(
        generator="test",
        name="net",
        is_strongly_typed=True,
        verbosity="DETAILED",
        tensors=(
            TensorRecord(name="x", is_input=True, dtype="float32", shape=(-1, 2)),
            TensorRecord(name="y", is_input=False, dtype="bfloat16", shape=(-1,)),
        ),
        profiles=(ProfileRecord(shapes={"x": size}, values={}),),
        shape_program={"any": "thing"},
        num_layers=1,
        layers=({"Name": "übung", "LayerType": "SHAPE"},),
        steps=SequenceStep((OnnxStep(0, ("x",), ("m",)), SequenceStep((OnnxStep(1, ("m", "x"), ("y",)),)))),
        segments=tuple(tables),
        weights=tuple(records),
    )


def written(segments, weights):
    pieces = []
    arrays = [np.frombuffer(block, np.uint8) for block in weights]
    size = write_plan(
        lambda piece: pieces.append(bytes(piece)), header_for(segments, weights), segments, arrays
    )
    plan = b"".join(pieces)
    assert len(plan) == size
    return plan, pieces


RANDOM = np.random.default_rng(1).bytes(3 * CHUNK_BYTES)


@pytest.mark.parametrize(
    "sizes",
    [
        (1,),
        (64, 64),
        (63, 65, 1),
        (CHUNK_BYTES,),
        (CHUNK_BYTES - 1, 100),
        (CHUNK_BYTES + 1,),
        (5, 2 * CHUNK_BYTES),
    ],
)
def test_what_is_written_is_read_back(sizes):
    blocks = [RANDOM[size : 2 * size] if 2 * size < len(RANDOM) else RANDOM[:size] for size in sizes]
    plan, pieces = written([b"first model", b"second"], blocks)
    assert max(map(len, pieces)) <= max(CHUNK_BYTES, PAGE_BYTES), "weights go out piece by piece"
    read = read_plan(memoryview(plan))
    assert read.header == header_for([b"first model", b"second"], blocks)
    assert [bytes(read.segment(index)) for index in range(2)] == [b"first model", b"second"]
    assert [read.weight(index).tobytes() for index in range(len(blocks))] == blocks
    assert read.layout.weights_offset % PAGE_BYTES == 0
    for threads in (1, 2, 5):
        read.check_weights(threads)
    read.check_weights_digest()


def test_the_trailer_holds_the_digests():
    plan, _ = written([b"model", b"two"], [b"abc", b"defg"])
    weights = b"abc" + bytes(61) + b"defg"
    assert hashlib.sha256(weights).digest() in plan
    assert hashlib.sha256(plan[: read_plan(memoryview(plan)).layout.segments_offset]).digest() in plan


def test_damage_that_the_fast_checksums_miss_is_found_by_the_digest_on_request():
    plan = bytearray(written([b"m", b"n"], [b"abcd"])[0])
    read = read_plan(memoryview(plan))
    plan[read.layout.weights_offset] ^= 1
    with pytest.raises(EngineError, match="do not match their sha256"):
        read.check_weights_digest()


def test_reading_copies_no_weights():
    plan, _ = written([b"m", b"n"], [RANDOM])
    weight = read_plan(memoryview(plan)).weight(0)
    assert np.shares_memory(weight, np.frombuffer(plan, np.uint8))
    assert not weight.flags.writeable


def test_the_same_network_gives_the_same_bytes():
    assert bytes(feed_forward_plan()[1]) == bytes(feed_forward_plan()[1])


def test_tables_that_do_not_fit_are_not_written():
    header = header_for([b"m", b"n"], [b"abcd"])
    with pytest.raises(BuildError, match="table of weights"):
        write_plan(lambda piece: None, header, [b"m", b"n"], [np.zeros(3, np.uint8)])
    with pytest.raises(BuildError, match="table of segments"):
        write_plan(lambda piece: None, header, [b"m", b"longer"], [np.zeros(4, np.uint8)])


def edited(change):
    """A plan whose header was changed by hand, with right checksums."""
    header, segments, weights = parts_of(written([b"model", b"two"], [b"abc", b"defg"])[0])
    fields = json.loads(header)
    change(fields)
    return signed(json.dumps(fields).encode(), segments, weights)


def test_the_edit_of_nothing_is_read():
    assert read_plan(memoryview(edited(lambda fields: None))).header.name == "net"


def put(*path_and_value):
    *path, last, value = path_and_value

    def change(fields):
        for key in path:
            fields = fields[key]
        fields[last] = value

    return change


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda fields: fields.pop("tensors"), "lacks 'tensors'"),
        (put("surplus", 1), "unknown keys at header: surplus"),
        (put("tensors", 0, "extra", 1), r"unknown keys at header.tensors\[0\]: extra"),
        (put("tensors", 0, "mode", "both"), '"both" at .*mode, where "input" or "output"'),
        (put("tensors", 0, "shape", [-2]), r"-2 at .*shape, where a list of integers"),
        (put("tensors", 0, "shape", [True]), "true at .*shape"),
        (put("tensors", 0, "shape", [1] * 9), "at most 8"),
        (put("tensors", 1, "name", "x"), "lists a tensor twice"),
        (put("tensors", 0, "shape_input", True), "does not cover exactly the values"),
        (put("tensors", {}), "an? .*dict.* at header.tensors, where a list"),
        (put("name", 3), "3 at header.name, where a string"),
        (put("strongly_typed", 1), "where true or false"),
        (put("verbosity", "LOUD"), "'LOUD' as verbosity; there are LAYER_NAMES_ONLY, NONE, DETAILED"),
        (put("profiles", []), "no optimization profile"),
        (put("profiles", 0, "shapes", []), "does not cover exactly its inputs"),
        (put("profiles", 0, "shapes", 0, "min", [9, 2]), "no proper min <= opt <= max"),
        (put("profiles", 0, "shapes", 0, "min", [1]), "no proper min <= opt <= max"),
        (put("profiles", 0, "shapes", 0, "max", [8, 3]), "does not fit the shape"),
        (put("steps", "kind", "loop"), "step of kind 'loop'"),
        (put("steps", "steps", 0, "kind", "rendezvous"), r"kind 'rendezvous' at steps.steps\[0\]"),
        (put("steps", "steps", 0, "segment", 7), "runs segment 7, but there are 2"),
        (put("steps", "steps", 0, "inputs", ["ghost"]), "takes 'ghost', which nothing before it makes"),
        (put("steps", "steps", 0, "outputs", ["x"]), "makes 'x', which is there already"),
        (put("steps", "steps", 0, "outputs", ["z"]), "takes 'm'"),
        (put("steps", "steps", []), "no step of the engine makes its output 'y'"),
        (put("segments", 0, "bytes", 4), "does not start where the one before it ends"),
        (put("segments", 1, "bytes", 4), "do not fill the space"),
        (put("segments", 0, "weights", 0, "block", 9), "uses weights 9"),
        (put("segments", 0, "weights", 0, "shape", [4]), "which they are not"),
        (put("segments", 0, "weights", 0, "type", 1), "which they are not"),
        (put("segments", 0, "weights", 0, "type", 99), "99 at .*type, where one of"),
        (put("segments", 0, "weights", 0, "shape", [2**62, 2**62, 2**62]), "which they are not"),
        (put("segments", 0, "weights", 1, "name", "w0"), "segment 0 of the engine lists a weight twice"),
        (put("weights", 1, "offset", 65), "do not start where the ones before them end"),
        (put("weights", 1, "bytes", 2**62), "which they are not"),
        (put("weights", 0, "bytes", 0), "0 at .*bytes, where an integer in"),
        (put("weights", 0, "bytes", 1.5), "1.5 at .*bytes"),
        (put("weights", 0, "offset", 10**400), "where an integer in"),
        (put("layers", [1]), "where objects with 'Name'"),
        (put("plugins", [{"name": "swiglu"}]), "lacks .version. at header.plugins.0."),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(change, reason):
    with pytest.raises(EngineError, match=reason):
        read_plan(memoryview(edited(change)))


@pytest.mark.parametrize(
    "text, reason",
    [
        (b"", "not valid JSON"),
        (b"[]", "a list at header, where an object"),
        (b"\xff\xfe", "not valid JSON"),
        (b'{"name":1,"name":2}', "key 'name' twice"),
        (b'{"a":NaN}', "NaN, which is not JSON"),
        (b'{"a":-Infinity}', "-Infinity, which is not JSON"),
        (b'{"a":' + b"9" * 5000 + b"}", "not valid JSON"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a":' * 200_000, "nested too deeply"),
    ],
)
def test_json_that_is_not_plain_is_refused(text, reason):
    with pytest.raises(EngineError, match=reason):
        read_plan(memoryview(signed(text)))


def test_steps_nested_too_deeply_are_refused():
    deep = {"kind": "sequence", "steps": []}
    for _ in range(100):
        deep = {"kind": "sequence", "steps": [deep]}
    with pytest.raises(EngineError, match="nested more than 32 deep"):
        read_plan(memoryview(edited(put("steps", deep))))


# Reading of models without onnx


def model_of(nodes, shapes, types=None):
    """A serialized model with external initializers {name: shape}."""
    graph = onnx.helper.make_graph(nodes, "g", [], [])
    for name, shape in shapes.items():
        tensor = graph.initializer.add(name=name, dims=shape, data_type=(types or {}).get(name, 1))
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="weights")
    graph.initializer.append(onnx.numpy_helper.from_array(np.arange(3), "inside"))
    return memoryview(onnx.helper.make_model(graph).SerializeToString())


def node(op, *inputs):
    return onnx.helper.make_node(op, inputs, ["out"], name="n", doc_string="text", alpha=1.5, count=-3)


def test_external_initializers_are_read_without_onnx():
    shapes = {"w": (300, 2), "scalar": (), "\u00fc": (2**40,)}
    found = external_initializers(model_of([node("MatMul", "x", "w")], shapes, {"scalar": 16}))
    assert found == {
        name: Initializer(16 if name == "scalar" else 1, shape) for name, shape in shapes.items()
    }


def test_what_lasts_is_all_but_right_operands_of_products_and_what_is_folded():
    nodes = [
        node("MatMul", "x", "w"),
        node("Gemm", "x", "gemm", "bias"),
        node("FusedMatMul", "left", "fused", "x"),
        node("MatMul", "x", "tied"),
        node("Gather", "tied", "x"),
        node("MatMul", "x", "batched"),
        node("MatMul", "x", "half"),
        node("Gather", "table", "x"),
        node("Cast", "cast"),
        onnx.helper.make_node("Cast", ["seen"], ["folded"]),
        onnx.helper.make_node("Reshape", ["folded", "inside"], ["shaped"]),
        node("Add", "shaped", "x"),
        node("Gather", "seen", "x"),
    ]
    lasting = {"bias", "left", "tied", "batched", "half", "table", "seen"}
    names = [*lasting, "w", "gemm", "fused", "cast", "unused"]
    shapes = {**dict.fromkeys(names, (2, 2)), "batched": (2, 2, 2)}
    assert lasting_initializers(model_of(nodes, shapes, {"half": 10})) == lasting


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(0, 255), st.integers(0, 10**6))
def test_a_damaged_model_is_read_or_refused(position, byte, length):
    model = bytearray(model_of([node("MatMul", "x", "w")], {"w": (2, 2)}))
    model[position % len(model)] = byte
    for read in (external_initializers, lasting_initializers):
        try:
            read(memoryview(model)[: len(model) - length % 3])
        except EngineError as error:
            assert "no ONNX model" in str(error)
