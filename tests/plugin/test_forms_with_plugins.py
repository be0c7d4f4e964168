"""Every form with all plugins asked for gives the numbers of its plain layers, bit for bit, on the embedded engine."""

import pytest
from sampling import thinned
from stack_forms import TABLE, config_of, random_input

import trtllm_ext as tx
from trtllm_ext.graph.plugin_config import OWN_PLUGINS
from trtllm_ext.models import model_from_checkpoint, write_random_checkpoint

BUDGET_S = 14

ALL = dict.fromkeys(OWN_PLUGINS, "auto")


def feeds_of(config):
    feeds = {"hidden_states": random_input(config)}
    if config.contract.attention_input:
        feeds["attention_output"] = random_input(config, config.num_hidden_layers, seed=5)
    return feeds


def outputs_of(path, config, plugins, **settings):
    """The outputs of an engine of the checkpoint, and the plugins in its envelope."""
    limits = tx.BuildConfig(max_num_tokens=32, plugin_config=plugins, **settings)
    engine = tx.build(model_from_checkpoint(path), limits)
    with tx.Session.from_serialized_engine(engine.engine) as session:
        return session.run(feeds_of(config)), {plugin.name for plugin in engine.plugins}


CASES = [
    # Both types of a form in turn, of which one of three is a default one.
    pytest.param(name, dtype)
    for name in TABLE
    for dtype in ("float32", "float16")
]


@pytest.mark.parametrize(("name", "dtype"), thinned(CASES, every=3))
def test_a_form(name, dtype, tmp_path):
    form = TABLE[name]
    # Sums of attention's too, where it makes a difference.
    has_attention = form.residual.parallel != "none" or name in ("gpt2", "t5_clamped", "float32_stream")
    config = config_of(form, dtype, attention_input=has_attention)
    write_random_checkpoint(tmp_path, config, seed=1)
    plain, none = outputs_of(tmp_path, config, {})
    got, used = outputs_of(tmp_path, config, ALL)
    assert used and not none
    assert {key: value.tobytes() for key, value in got.items()} == {
        key: value.tobytes() for key, value in plain.items()
    }
