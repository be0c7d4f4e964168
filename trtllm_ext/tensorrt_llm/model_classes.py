"""Our models as TensorRT-LLM's builder knows models: a config class, a model class, and their place in its table."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any

from trtllm_ext.checkpoint import Contract, ModelConfig, load_checkpoint
from trtllm_ext.errors import ConfigError
from trtllm_ext.graph import Tensor, functional
from trtllm_ext.models import model_from_config
from trtllm_ext.parallel import Mapping
from trtllm_ext.tensorrt_llm.in_use import require

require("a model class for trtllm-build")

if TYPE_CHECKING:  # its classes are known where it is installed
    PretrainedConfig: Any = object
    PretrainedModel: Any = object
    MODEL_MAP: dict[str, Any] = {}
else:
    MODEL_MAP = import_module("tensorrt_llm.models").MODEL_MAP
    PretrainedConfig = import_module("tensorrt_llm.models.modeling_utils").PretrainedConfig
    PretrainedModel = import_module("tensorrt_llm.models.modeling_utils").PretrainedModel

_log = logging.getLogger(__name__)

# What our config.json has beside TensorRT-LLM's fields. The digest is of the file as it is, which loading checks.
_OWN = ("contract", "type_vocab_size", "source")
_OF_THE_FILE = ("sha256", "checkpoint_id")
_PLAIN = (
    *(
        "architecture",
        "dtype",
        "hidden_size",
        "num_hidden_layers",
        "intermediate_size",
        "num_attention_heads",
    ),
    *("head_size", "vocab_size", "max_position_embeddings"),
)
_RANKS = ("world_size", "gpus_per_node", "cp_size", "tp_size", "pp_size", "moe_tp_size", "moe_ep_size")


class Config(PretrainedConfig):
    """A ModelConfig among TensorRT-LLM's: what it writes, in checkpoints and in engine directories, is our form.

    Raises ConfigError for what `ModelConfig` refuses, a config without a contract, and quantisation.
    """

    def __init__(self, **values: Any) -> None:
        own = {name: values.pop(name, None) for name in _OWN}
        for name in _OF_THE_FILE:
            values.pop(name, None)
        if own["contract"] is None:
            raise ConfigError(
                f"the config of a {values.get('architecture')} has no contract, without which the exact maths is not "
                "known: write the checkpoint with `trtllm-ext convert`."
            )
        super().__init__(**values)
        for name, value in own.items():
            setattr(self, name, value)
        model_config(self)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form that `trtllm_ext.checkpoint` reads and writes."""
        return model_config(self).to_dict()


def model_config(config: Any) -> ModelConfig:
    """Our config of one of TensorRT-LLM's, for its rank."""
    for name in ("quant_algo", "kv_cache_quant_algo"):
        asked = getattr(config.quantization, name, None)
        if asked is not None:
            raise ConfigError(f"quantization.{name}={asked!s}: no model here is quantised. Leave it out.")
    sizes = {name: getattr(config.mapping, name) for name in _RANKS}
    return ModelConfig(
        **{name: getattr(config, name) for name in _PLAIN},
        contract=Contract.from_dict(config.contract),
        type_vocab_size=config.type_vocab_size,
        source=config.source,
        mapping=Mapping(**sizes, rank=config.mapping.rank),
    )


class _Model(PretrainedModel):
    """One of `trtllm_ext.models`, of whose parts this consists: parameters have the same names.

    Raises ConfigError for the config of another architecture.
    """

    config_class = Config

    def __init__(self, config: Any) -> None:
        if config.architecture not in (kind.__name__ for kind in type(self).__mro__):
            raise ConfigError(
                f"the checkpoint's architecture is {config.architecture}, the class {type(self).__name__}. Give "
                f"--model_cls_name {config.architecture}."
            )
        super().__init__(config)
        model = model_from_config(model_config(config))
        for name, child in model.named_children():
            setattr(self, name, child)
        self._whole = (model,)  # in a tuple, so that it is no part of this

    @classmethod
    def from_checkpoint(
        cls,
        ckpt_dir: str | os.PathLike[str],
        rank: int | None = None,
        config: Any = None,
        *,
        preprocess_weights_hook: Callable[[Any], Any] | None = None,
    ) -> Any:
        """As `models.model_from_checkpoint`: the weights are views of the mapped file. Raises what that raises."""
        if config is None:
            config = cls.config_class.from_checkpoint(ckpt_dir)
        if rank is not None:
            config.set_rank(rank)
        weights: Any = load_checkpoint(ckpt_dir, rank=config.mapping.rank).weights
        if preprocess_weights_hook is not None:
            weights = preprocess_weights_hook(weights)
        model = cls(config)
        model.load(weights)
        return model

    def load(self, weights: Any, from_pruned: bool = False) -> None:
        """Give every parameter its value. Raises CheckpointError as `models.Model.load` does."""
        if from_pruned:
            raise ConfigError("a pruned checkpoint (trtllm-prune) has no weights; build from the whole one.")
        self._whole[0].load(weights)

    def prepare_inputs(self, **limits: Any) -> dict[str, Any]:
        """The network's inputs. limits: what trtllm-build gives, of which the model takes what it has a use for."""
        model = self._whole[0]
        positions = model.config.num_positions
        longest = limits.get("max_input_len")
        if positions and longest is not None and longest > positions:
            _log.warning("max_input_len=%d becomes %d: the model has that many positions", longest, positions)
            limits["max_input_len"] = positions
        return dict(model.prepare_inputs(**limits))

    def forward(self, **inputs: Any) -> Any:
        """Marks the outputs, as `models` have them."""
        return self._whole[0](**inputs)

    def named_network_outputs(self) -> Iterator[tuple[str, Tensor]]:
        """What was noted, for --enable_debug_output: that renames what it marks, so inputs and outputs go in a copy."""
        for name, value in super().named_network_outputs():
            is_bound = value.trt_tensor.is_network_input or value.trt_tensor.is_network_output
            yield name, functional.identity(value) if is_bound else value


class SublayerStack(_Model):
    """See `trtllm_ext.models.SublayerStack`."""


class Encoder(_Model):
    """See `trtllm_ext.models.Encoder`."""


MODEL_MAP.update({kind.__name__: kind for kind in (SublayerStack, Encoder)})
