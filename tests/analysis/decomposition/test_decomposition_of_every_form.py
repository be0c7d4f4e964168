"""Every form of a sublayer, in three types, with and without given attention: the parts add up within their bounds."""

import numpy as np
import pytest
from encoder_formulas import sentences, small_config
from stack_forms import HIDDEN, LAYER, TABLE, TOKENS, config_of, random_input
from sublayer_formulas import DTYPES

from trtllm_ext.analysis.decomposition.decomposition import decompose
from trtllm_ext.analysis.decomposition.pooled_effects import PooledParts
from trtllm_ext.analysis.running import stream_of
from trtllm_ext.analysis.running.engines import tapped_engine
from trtllm_ext.analysis.running.parts import parts_of
from trtllm_ext.checkpoint import load_checkpoint
from trtllm_ext.errors import ConfigError
from trtllm_ext.models import write_random_checkpoint

BUDGET_S = 60
pytestmark = [pytest.mark.long, pytest.mark.usefixtures("one_thread")]

TYPES = ("float32", "float16", "bfloat16")


def check(path, config, inputs):
    write_random_checkpoint(path, config, seed=1)
    weights = load_checkpoint(path).weights
    with tapped_engine(checkpoint_dir=path) as engine:
        run = stream_of(engine, inputs)
    pooling = config.contract.pooling
    pooled = []
    if pooling is not None and pooling.kind != "none":
        pooled.append(PooledParts(run, parts_of(config, weights), weights))
    result = decompose(run, weights, visitors=pooled)
    np.testing.assert_allclose(result.share.sum(0), 1, rtol=0, atol=1e-9)
    # Far enough from 1 that a wrong step shows; near enough to 0 that no sound one is refused.
    assert 0 < result.share_of_bound < 0.5
    for each in pooled:
        names, vectors = each.vectors()
        assert len(names) == len(vectors)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", TABLE)
def test_stacks(tmp_path, name, dtype):
    for given, norm in ((False, None), (True, None), (True, LAYER)):
        try:
            config = config_of(TABLE[name], dtype, attention_input=given, final_norm=norm)
        except ConfigError:
            assert given, "a form cannot have attention given; without, it is one of the table"
            continue
        inputs = {"hidden_states": random_input(config)}
        if given:
            attention = np.random.default_rng(0).normal(size=(2, TOKENS, HIDDEN))
            inputs["attention_output"] = attention.astype(DTYPES[config.stream_dtype])
        check(tmp_path / f"{given} {norm is not None}", config, inputs)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("kind", ["mean", "cls", "pooler", "none"])
def test_encoders(tmp_path, kind, dtype):
    check(tmp_path / "encoder", small_config(dtype, kind, kind != "none"), sentences())
