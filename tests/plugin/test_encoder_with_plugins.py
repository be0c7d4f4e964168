"""An Encoder with plugins: padded batches, attention's sums; and the very operators of its plain layers."""

from collections import Counter

import numpy as np
import pytest
from encoder_formulas import sentences, small_config
from sublayer_formulas import DTYPES

import trtllm_ext as tx
from trtllm_ext.builder.trace import trace
from trtllm_ext.embedded.plugins.expansions import expansions_of
from trtllm_ext.graph.plugin_config import OWN_PLUGINS
from trtllm_ext.lowering.lower import lower
from trtllm_ext.models import model_from_checkpoint, write_random_checkpoint

BUDGET_S = 5

pytestmark = pytest.mark.usefixtures("one_thread")


def limits(plugins):
    return tx.BuildConfig(max_batch_size=4, max_input_len=16, plugin_config=plugins)


PLAIN, PLUGINS = limits({}), limits(dict.fromkeys(OWN_PLUGINS, "auto"))


@pytest.fixture(scope="module", params=DTYPES)
def path(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    write_random_checkpoint(folder, small_config(request.param), seed=2)
    return folder


def test_the_numbers_are_those_of_the_plain_layers(path):
    def outputs(config):
        engine = tx.build(model_from_checkpoint(path), config)
        with tx.Session.from_serialized_engine(engine.engine) as session:
            return session.run(sentences()), {each.name for each in engine.plugins}

    (plain, _), (got, used) = outputs(PLAIN), outputs(PLUGINS)
    assert used == {"ResidualNorm", "FeedForward"}
    for name, value in got.items():
        np.testing.assert_array_equal(value, plain[name], err_msg=name)


def test_the_operators_are_those_of_the_plain_layers(path):
    def operators(config):
        # Constants read their weights where the model has them: the trace and the model live until they are lowered.
        model = model_from_checkpoint(path)
        traced = trace(model, config)
        network = traced.network.trt_network
        least = dict.fromkeys(sentences(), (1, 1))
        lowered = lower(network, tx.embedded, least, expansions=expansions_of(network))
        (segment,) = lowered.steps
        names = [each.name for each in segment.model.graph.output]
        return Counter(node.op_type for node in segment.model.graph.node), names

    assert operators(PLUGINS) == operators(PLAIN)
