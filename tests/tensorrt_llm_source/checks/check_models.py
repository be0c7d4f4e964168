"""Our layers and models, made of TensorRT-LLM's functional, Module and Parameter, beside the same made of ours."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from references import check_surgery, names, plain, tapped

import trtllm_ext as tx
from trtllm_ext.checkpoint import load_config

ANSWERS = Path(os.environ["TENSORRT_LLM_ANSWERS"])
# Four unit roundoffs of the narrow types; float32 sums of tens of numbers in another order.
TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1.6e-2}


@pytest.mark.parametrize("name", names())
def test_numbers_and_taps_are_those_of_our_graph(name):
    path = ANSWERS / name
    with np.load(path / "answer.npz") as stored:
        known = dict(stored)
    config = load_config(path)
    engine = tapped(path)
    dtypes = {each.name: each.dtype for each in engine.inputs}
    with tx.Session.from_serialized_engine(engine.engine) as session:
        inputs = {
            name.removeprefix("in."): _typed(value, dtypes[name.removeprefix("in.")])
            for name, value in known.items()
            if name.startswith("in.")
        }
        outputs = session.run(inputs)
    expected = {name.removeprefix("out."): value for name, value in known.items() if name.startswith("out.")}
    assert outputs.keys() == expected.keys()
    for key, value in expected.items():
        got = plain(outputs[key])
        assert got.shape == value.shape, key
        error = np.abs(got - value).max() / np.abs(value).max()
        assert error <= TOLERANCE[config.dtype], (key, error)
    assert all(
        tap.meaning.startswith(("the residual", "what is added", "the sublayer")) for tap in _taps(engine)
    )


@pytest.mark.parametrize("name", names())
def test_a_run_changes_what_it_may(name):
    with np.load(ANSWERS / name / "answer.npz") as stored:
        known = dict(stored)
    inputs, expected = (
        {key.removeprefix(kind): value for key, value in known.items() if key.startswith(kind)}
        for kind in ("in.", "out.")
    )
    check_surgery(ANSWERS / name, inputs, expected, TOLERANCE[load_config(ANSWERS / name).dtype])


def _taps(engine):
    return engine.config.taps.values()


def _typed(value, dtype):
    from trtllm_ext.runtime.dtypes import NUMPY_DTYPES, TORCH_DTYPES

    return value.astype(next(NUMPY_DTYPES[name] for name, told in TORCH_DTYPES.items() if told == dtype))


def test_ranks_end_where_the_compiled_all_reduce_is_asked_for(tmp_path):
    """What TensorRT-LLM's functional adds there is a layer of its plugin."""
    from stack_forms import TABLE, config_of

    from trtllm_ext.models import model_from_config
    from trtllm_ext.parallel import Mapping

    config = replace(config_of(TABLE["gpt2"]), mapping=Mapping(world_size=2, tp_size=2, rank=0))
    model = model_from_config(config)
    for _, parameter in model.named_parameters():
        parameter.value = np.zeros(parameter.shape, np.float32)
    with pytest.raises(AssertionError) as ended:
        tx.build(model, tx.BuildConfig(max_num_tokens=32))
    assert "allreduce_plg_creator" in str(ended.getrepr(style="short"))
