"""What a spec takes for a field that a config leaves out: what transformers' own config class takes for it."""

from pathlib import Path

import pytest
from transformers import AutoConfig

from trtllm_ext.checkpoint.convert.architectures import STACK_ARCHITECTURES
from trtllm_ext.checkpoint.convert.hf_config import HfConfig
from trtllm_ext.checkpoint.convert.hf_fields import HF_FIELDS_OUTSIDE_FEED_FORWARD
from trtllm_ext.errors import CheckpointError

BUDGET_S = 6

# Read although the class has no such field: published configs have it, and it has to agree with the others.
PUBLISHED_FIELDS = {
    "gemma": {"hidden_activation"},
    "gpt_oss": {"experts_per_token", "quantization_config"},
    "bloom": {"n_embed", "n_inner"},
    "starcoder2": {"mlp_type", "norm_type"},
    "falcon": {"n_embed", "apply_residual_connection_post_layernorm"},
    **{name: {"use_gated_activation", "use_parallel_block"} for name in ("cohere", "cohere2")},
    **{
        name: {"normalize_before"} for name in ("bart", "marian", "mbart", "m2m_100", "pegasus", "blenderbot")
    },
    "whisper": {"normalize_before"},
}
# Falcon's first name has no class in transformers.
SPECS = [spec for spec in STACK_ARCHITECTURES if spec.model_type != "RefinedWeb"]
every_spec = pytest.mark.parametrize(
    "spec", [pytest.param(spec, id=f"{spec.model_type}-{spec.stack or ''}") for spec in SPECS]
)


class Watched(HfConfig):
    """Notes the fields that are asked for."""

    def __init__(self, fields):
        super().__init__(Path("config.json"), fields)
        self.asked = set()

    def get(self, name, *default):
        self.asked.add(name)
        return super().get(name, *default)


def default_fields(spec):
    """The fields of the stack that a config of the class alone has."""
    fields = AutoConfig.for_model(spec.model_type).to_dict()
    return next((fields[name] for name in spec.nested_config if name in fields), fields)


def contract(spec, fields):
    form = spec.read(HfConfig(Path("config.json"), fields), range(1))
    return form.hidden_size, form.ffn_hidden_size, form.feed_forward, form.weights.keys()


@every_spec
def test_a_field_left_out_means_what_the_class_means_by_it(spec):
    fields = default_fields(spec)
    wanted = contract(spec, fields)
    for left_out in fields:
        try:
            found = contract(spec, {name: value for name, value in fields.items() if name != left_out})
        except CheckpointError:
            continue  # required
        assert found == wanted, f"without {left_out}, which is {fields[left_out]!r} unless given"
    if isinstance(spec.depth_unless_given, int):
        assert fields[spec.depth] == spec.depth_unless_given


@every_spec
def test_no_field_is_read_that_the_class_does_not_have(spec):
    """Otherwise it would change the contract of a model that does not obey it."""
    fields = default_fields(spec)
    config = Watched(fields)
    spec.read(config, range(1))
    assert config.asked - fields.keys() == PUBLISHED_FIELDS.get(spec.model_type, set())


WITHOUT_BIAS = ("mistral", "qwen2", "qwen3", "phi3", "glm", "glm4", "exaone4")


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec.model_type in WITHOUT_BIAS])
@pytest.mark.parametrize("field", ["mlp_bias", "residual_multiplier"])
def test_fields_of_other_architectures_are_unknown(spec, field):
    config = HfConfig(Path("config.json"), {**spec.example, field: 1})
    spec.read(config, range(1))
    with pytest.raises(CheckpointError, match=f"unknown field {field}=1"):
        config.finish(spec.other_fields | HF_FIELDS_OUTSIDE_FEED_FORWARD | {"num_hidden_layers"})
