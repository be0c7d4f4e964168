"""The model of every network of the zoo is good ONNX: checked in full, and loaded by Polygraphy."""

import pytest
import zoo
from lowered_net import self_contained
from polygraphy import logger as polygraphy_logger
from polygraphy.backend.onnx import BytesFromOnnx, infer_shapes
from polygraphy.backend.onnxrt import SessionFromOnnx
from sampling import telling
from zoo.engine import recording_logger

import trtllm_ext.embedded as trt
from trtllm_ext.lowering import lower

BUDGET_S = 8

polygraphy_logger.G_LOGGER.severity = polygraphy_logger.G_LOGGER.ERROR


@pytest.mark.parametrize("case", telling(zoo.CASES), ids=str)
def test_model_is_good_onnx(case):
    network = zoo.define(case, trt, trt.Builder(recording_logger(trt)))
    for step in lower(network, trt).steps:
        if not hasattr(step, "model"):
            continue  # a plugin: no model
        model = infer_shapes(self_contained(step), allow_onnxruntime=False)
        session = SessionFromOnnx(BytesFromOnnx(model), providers=["cpu"])()
        assert [each.name for each in session.get_inputs()] == list(step.inputs)
        assert [each.name for each in session.get_outputs()] == list(step.outputs)
