"""What every model offers to the builder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy.typing as npt

from trtllm_ext.checkpoint import ModelConfig
from trtllm_ext.errors import CheckpointError, ConfigError
from trtllm_ext.graph import Module
from trtllm_ext.graph.either import set_value
from trtllm_ext.suggest import did_you_mean


class Model(Module):
    """A network with a config, named parameters, and inputs made from limits.

    limits: the names of the build limits that the model has a use for.
    has_independent_rows: whether, where all inputs and outputs vary in their first dimension, no row of a result
        depends on another row of the inputs, so that requests may be joined along it.
    Over several ranks (the config's mapping, tp_size) each has the model of its own shards, which computes the whole
    result together with the others.
    A subclass has `prepare_inputs(**limits)`, called while a network is being defined, whose result `forward`
    takes; forward marks the outputs.
    """

    limits: ClassVar[frozenset[str]] = frozenset()
    has_independent_rows: ClassVar[bool] = False
    architecture: ClassVar[str] = ""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.architecture != self.architecture:
            raise ConfigError(
                f"{type(self).__name__} is built from architecture {self.architecture!r}, "
                f"this config says {config.architecture!r}."
            )
        self.config = config

    def load(self, weights: Mapping[str, npt.NDArray]) -> None:
        """Give every parameter its value; arrays are kept, not copied.

        Raises CheckpointError for a weight that is missing or that the model does not have.
        """
        parameters = dict(self.named_parameters())
        missing = [name for name in parameters if name not in weights]
        extra = [
            f"{name} {did_you_mean(name, parameters)}".rstrip() for name in weights if name not in parameters
        ]
        if missing or extra:
            raise CheckpointError(
                f"The weights do not fit {type(self).__name__}: missing {', '.join(missing) or 'none'}; "
                f"not its own: {', '.join(extra) or 'none'}."
            )
        for name, parameter in parameters.items():
            set_value(parameter, weights[name])


def positive_limit(limits: Mapping[str, Any], name: str, model: Module) -> int:
    """A limit that the model cannot do without; raises ConfigError when it is missing or not positive."""
    value = limits.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{type(model).__name__} needs {name} as a positive integer, got {value!r}.")
    return value


def optimum(limits: Mapping[str, Any], name: str, most: int) -> int:
    """The size to tune for, half of `most` when none is given; raises ConfigError outside of 1 to `most`."""
    value = limits.get(name)
    if value is None:
        return (most + 1) // 2
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ConfigError(f"{name}={value!r} must lie between 1 and {most}, the limit that it belongs to.")
    return value
