"""Bodies of HTTP requests: every type as JSON and as bytes, and what is wrong told in a sentence."""

import json
import tracemalloc

import ml_dtypes
import numpy as np
import pytest

from trtllm_ext.errors import InputError
from trtllm_ext.serve.datatypes import NUMPY_OF
from trtllm_ext.serve.http_wire import Call, read_body, write_body
from trtllm_ext.serve.runner import TensorSpec
from trtllm_ext.serve.tensors import to_bytes

BUDGET_S = 1

VALUES = {
    "FP32": [1.5, -2.25e10],
    "FP16": [0.5, -65504.0],
    "BF16": [3.0, -1e30],
    "INT64": [2**62, -(2**63)],
    "INT32": [7, -(2**31)],
    "INT8": [127, -128],
    "UINT8": [0, 255],
    "BOOL": [True, False],
}


def spec(datatype, shape=(-1, 2)):
    return {"x": TensorSpec(name="x", datatype=datatype, shape=shape)}


def body_of(entry, *, behind=b"", **more):
    head = json.dumps({"inputs": [entry], **more}).encode()
    return head + behind, str(len(head)) if behind else None


def read(entry, datatype="FP32", shape=(-1, 2), **more):
    return read_body(
        *body_of(entry, **more),
        spec(datatype, shape),
        {"y": TensorSpec(name="y", datatype="FP32", shape=(-1,))},
    )


@pytest.mark.parametrize("datatype", VALUES)
@pytest.mark.parametrize("way", ["flat", "nested", "bytes"])
def test_every_type_arrives_as_it_was_sent(datatype, way):
    expected = np.array([VALUES[datatype]]).astype(NUMPY_OF[datatype])
    entry = {"name": "x", "datatype": datatype, "shape": [1, 2]}
    if way == "bytes":
        data = to_bytes(expected)
        call = read({**entry, "parameters": {"binary_data_size": len(data)}}, datatype, behind=data)
    else:
        call = read({**entry, "data": VALUES[datatype] if way == "flat" else [VALUES[datatype]]}, datatype)
    given = call.arrays["x"]
    assert given.dtype == expected.dtype and given.shape == (1, 2) and given.tobytes() == expected.tobytes()
    assert given.flags.aligned and given.flags.c_contiguous


@pytest.mark.parametrize("datatype", VALUES)
@pytest.mark.parametrize("is_binary", [False, True])
def test_every_type_leaves_as_it_is(datatype, is_binary):
    values = np.array([VALUES[datatype]]).astype(NUMPY_OF[datatype])
    call = Call("7", {}, ["x"], {"x"} if is_binary else set())
    content, length = write_body({"model_name": "m", "id": "7"}, call, {"x": values}, spec(datatype))
    head = json.loads(content[: length or None])
    assert head["id"] == "7" and head["outputs"][0]["shape"] == [1, 2]
    if is_binary:
        assert head["outputs"][0]["parameters"] == {"binary_data_size": values.nbytes}
        assert content[length:] == values.tobytes()
    else:
        back = np.array(head["outputs"][0]["data"]).astype(NUMPY_OF[datatype])
        assert back.tobytes() == values.tobytes()


def test_texts_go_both_ways():
    texts = np.array(["grün".encode(), b""], np.object_)
    entry = {"name": "x", "datatype": "BYTES", "shape": [2]}
    data = to_bytes(texts)
    sent = read({**entry, "parameters": {"binary_data_size": len(data)}}, "BYTES", (-1,), behind=data)
    assert sent.arrays["x"].tolist() == texts.tolist()
    assert read({**entry, "data": ["grün", ""]}, "BYTES", (-1,)).arrays["x"].tolist() == texts.tolist()


def test_numbers_that_are_not_finite_are_null_in_json():
    values = np.array([np.nan, np.inf, 1.0], np.float32)
    content, _ = write_body({}, Call(None, {}, ["x"]), {"x": values}, spec("FP32", (-1,)))
    assert json.loads(content)["outputs"][0]["data"] == [None, None, 1.0]
    halves = values.astype(ml_dtypes.bfloat16)
    content, _ = write_body({}, Call(None, {}, ["x"]), {"x": halves}, spec("BF16", (-1,)))
    assert json.loads(content)["outputs"][0]["data"] == [None, None, 1.0]


def entry(**changes):
    return {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2], **changes}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (entry(name="z"), "unknown input 'z'. Known: x."),
        (entry(name=7), "unknown input 7"),
        (entry(datatype="FP16"), "has datatype 'FP16'; expected 'FP32'"),
        (entry(shape=[2, 1]), r"has shape \[2, 1\]; expected \[-1, 2\]"),
        (entry(shape=[1, 2, 1]), r"expected \[-1, 2\]"),
        (entry(shape="1"), "expected a list of sizes"),
        (entry(shape=[-1, 2]), "expected a list of sizes"),
        (entry(shape=[10**15, 2]), "needs 2000000000000000 elements, got 2"),
        (entry(data=[1]), "needs 2 elements, got 1"),
        (entry(data=[[1], [2]]), r"lists of shape \[2, 1\]; expected \[1, 2\]"),
        (entry(data=[[1, 2], [3]]), "lists of unequal lengths"),
        (entry(data=["1", "2"]), "takes numbers, got"),
        (entry(data=[None, 1]), "takes numbers, got None"),
        (entry(data=[1e39, 0]), "too large for FP32"),
        (entry(data={"a": 1}), "expected a list"),
        (entry(parameters={"binary_data_size": 8}), "0 bytes are left"),
        (entry(parameters={"shared_memory_region": "r"}), "no shared memory"),
        (entry(parameters=[1]), "parameters are not a JSON object"),
    ],
)
def test_what_does_not_fit_is_told(given, told):
    with pytest.raises(InputError, match=told):
        read(given)


@pytest.mark.parametrize(
    ("datatype", "data", "told"),
    [
        ("INT32", [1.0, 2.0], "takes integers, got"),
        ("INT8", [1, 128], "holds 1 to 128; INT8 holds -128 to 127"),
        ("UINT8", [-1, 1], "holds -1 to 1"),
        ("BOOL", [0, 1], "takes true and false"),
        ("FP32", [True, False], "takes numbers"),
        ("FP16", [1e5, 0], "too large for FP16"),
        ("INT64", [2**64, 0], "takes integers|holds"),
    ],
)
def test_numbers_are_never_made_into_others(datatype, data, told):
    with pytest.raises(InputError, match=told):
        read(entry(datatype=datatype, data=data), datatype)


def test_bytes_that_do_not_fit_are_told():
    binary = entry(parameters={"binary_data_size": 4})
    del binary["data"]
    with pytest.raises(InputError, match="needs 8 bytes, got 4"):
        read(binary, behind=b"1234")
    with pytest.raises(InputError, match="4 bytes stand behind the JSON"):
        read({**binary, "parameters": {"binary_data_size": 8}}, behind=b"123456789012")
    with pytest.raises(InputError, match="both data and binary_data_size"):
        read(entry(parameters={"binary_data_size": 4}), behind=b"1234")
    with pytest.raises(InputError, match="BOOL is 0 or 1"):
        read(
            {**binary, "datatype": "BOOL", "parameters": {"binary_data_size": 2}}, "BOOL", behind=b"\x01\x02"
        )
    texts = {"name": "x", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 6}}
    with pytest.raises(InputError, match="ends within an element"):
        read(texts, "BYTES", (-1,), behind=b"\x03\x00\x00\x00ab")


@pytest.mark.parametrize(
    ("body", "length", "told"),
    [
        (b"{", None, "not JSON"),
        (b"[]", None, "not a JSON object"),
        (b"[" * 5000, None, "not JSON"),
        (b"{}", "9", "expected a number up to 2"),
        (b"{}", "-1", "expected a number"),
        (b"{}", "9" * 5000, "expected a number"),
        (b"{}", None, "input 'x' is missing"),
        (b'{"inputs": [1]}', None, "not a list of JSON objects"),
        (b'{"inputs": [], "id": 7}', None, "input 'x' is missing"),
    ],
)
def test_a_body_that_is_none_is_told(body, length, told):
    with pytest.raises(InputError, match=told):
        read_body(body, length, spec("FP32"), {})


def test_elements_are_not_read_where_no_run_takes_their_shape_or_they_are_too_many():
    def refuse(shape):
        if shape[0] > 4:
            raise InputError("no run takes it")

    specs = {"x": TensorSpec(name="x", datatype="BYTES", shape=(-1,), check_shape=refuse)}
    behind = bytes(4_000_000)  # a million texts of no length
    for count, told in ((1_000_000, "no run takes it"), (3, "needs 3 elements, got 4")):
        texts = {"name": "x", "datatype": "BYTES", "shape": [count]}
        body, length = body_of({**texts, "parameters": {"binary_data_size": len(behind)}}, behind=behind)
        tracemalloc.start()
        try:
            with pytest.raises(InputError, match=told):
                read_body(body, length, specs, {})
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 1.5 * len(behind)  # one copy at most; a list of a million is twice as large


def test_a_body_without_inputs_is_told_the_shape_of_one():
    specs = spec("FP32") | {"text": TensorSpec(name="text", datatype="BYTES", shape=(-1,))}
    for body in (b'{"text": "A cat."}', b'{"inputs": null}'):
        with pytest.raises(InputError, match=r"the body has no .inputs.; expected ") as problem:
            read_body(body, None, specs, {})
        shown = str(problem.value).split("expected ")[1].removesuffix(".")
        x, text = json.loads(shown.replace("...", "1.0"))["inputs"]
        assert x == {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.0]}
        assert (text["name"], text["datatype"], text["shape"]) == ("text", "BYTES", [1])


def test_outputs_are_those_that_are_named():
    outputs = {name: TensorSpec(name=name, datatype="FP32", shape=(-1,)) for name in ("y", "z")}

    def asked(**more):
        body, length = body_of(entry(), **more)
        return read_body(body, length, spec("FP32"), outputs)

    assert asked().outputs == ["y", "z"] and not asked().binary
    assert asked(parameters={"binary_data_output": True}).binary == {"y", "z"}
    some = asked(outputs=[{"name": "z", "parameters": {"binary_data": True}}])
    assert some.outputs == ["z"] and some.binary == {"z"}
    with pytest.raises(InputError, match=r"unknown output .zz.*Did you mean z"):
        asked(outputs=[{"name": "zz"}])
    with pytest.raises(InputError, match="does not classify"):
        asked(outputs=[{"name": "z", "parameters": {"classification": 3}}])
