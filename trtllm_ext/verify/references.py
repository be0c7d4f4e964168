"""What a model's tensors should be: the oracle on its network, and the formulas on its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from trtllm_ext import backend, models, oracle
from trtllm_ext.builder import BuildConfig
from trtllm_ext.builder.rank_build import model_options
from trtllm_ext.builder.rebuilding import for_this_process
from trtllm_ext.builder.trace import Traced, trace
from trtllm_ext.checkpoint import Checkpoint
from trtllm_ext.checkpoint.dtypes import weight_dtype
from trtllm_ext.graph.known import known_of
from trtllm_ext.verify.formulas import Evaluation, evaluate, points_of
from trtllm_ext.verify.report import NetworkFault
from trtllm_ext.verify.suspects import foreign_activations
from trtllm_ext.verify.tolerances import Tolerances, error_of, tolerances_of

Array = np.ndarray[Any, Any]
ALL_TAPS = ("*",)


def model_of(checkpoint: Checkpoint, build_config: BuildConfig) -> Any:
    """The model of a checkpoint in memory, in the form that the build config asks for."""
    model = models.model_from_config(checkpoint.config, **model_options(build_config))
    model.load(checkpoint.weights)
    return model


class References:
    """Of one model and one input.

    inputs: arrays by name, as the engine takes them. exposed: what the engine gives for them, from which the oracle
    goes on behind a layer whose meaning it does not know.
    opaque: these layers. fed: the tensors of the engine that were taken so, in whose place nothing was computed.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        build_config: BuildConfig,
        inputs: Mapping[str, Array],
        tolerances: Tolerances,
        exposed: Mapping[str, Array] | None = None,
    ) -> None:
        self.inputs, self.tolerances = inputs, tolerances
        self._checkpoint, self._build_config = checkpoint, build_config
        self.traced: Traced = trace(
            model_of(checkpoint, build_config), for_this_process(build_config, taps=ALL_TAPS)
        )
        known = known_of(self.traced.network)
        self._evaluator = oracle.Evaluator(
            self.network, backend.tensorrt(), known.plugins, weights=known.weights
        )
        self.points = points_of(checkpoint.config, checkpoint.weights)
        self.by_formulas: Evaluation = evaluate(self.points, inputs)
        self.opaque = oracle.opaque_layers(self.network, backend.tensorrt(), known.plugins)
        self.fed: dict[str, Array] = {}
        self.by_oracle = self._whole(exposed or {}) if self.opaque else self.oracle()

    @property
    def network(self) -> Any:
        """The `INetworkDefinition`, with every tap as an output."""
        return self.traced.network.trt_network

    def oracle(
        self, wanted: list[str] | None = None, given: Mapping[str, Any] | None = None
    ) -> dict[str, Array]:
        """The network's tensors in float64; wanted: by default its outputs, every tap among them."""
        return self._evaluator.evaluate(self.inputs, wanted, given=given)

    @property
    def tapped(self) -> set[str]:
        """The names of the network's outputs."""
        return {str(self.network.get_output(index).name) for index in range(self.network.num_outputs)}

    def _whole(self, exposed: Mapping[str, Array]) -> dict[str, Array]:
        """What the oracle can tell of a network with layers that it does not know."""
        found: dict[str, Array] = {}
        tapped = self.tapped
        for point in self.points:
            if point.name not in tapped:
                continue
            try:
                found |= self.oracle([point.name], self.fed)
            except oracle.OracleError:
                if point.name in exposed:
                    self.fed[point.name] = exposed[point.name]
        return found

    def order(self) -> dict[str, tuple[str, str]]:
        """(sublayer, point) of every tensor that can be exposed, by name, in the order of execution."""
        return {
            point.name: (point.sublayer, point.name.removeprefix(f"{point.sublayer}."))
            for point in self.points
        }

    def network_fault(self) -> NetworkFault | None:
        """The first point of the network, in float64, that does not follow from those before it by its formula.

        A narrow type's constants would hide a small mistake, so the network is defined once more in float32.
        """
        found = self._fault()
        if found is not None or self._checkpoint.config.dtype == "float32":
            return found
        weights = {
            name: np.asarray(value).astype(np.float32) for name, value in self._checkpoint.weights.items()
        }
        wide = Checkpoint(replace(self._checkpoint.config, dtype="float32"), weights)
        narrow = weight_dtype(self._checkpoint.config.dtype)
        inputs = {
            name: value.astype(np.float32) if value.dtype == narrow else value
            for name, value in self.inputs.items()
        }
        tolerances = tolerances_of("float32", "embedded", False)
        return References(wide, self._build_config, inputs, tolerances)._fault()

    def _fault(self) -> NetworkFault | None:
        alone = evaluate(self.points, self.inputs, {**self.fed, **self.by_oracle})
        for point in self.points:
            if point.name not in self.by_oracle:
                continue
            counted = self.counted(alone, point.name, self.tolerances.network)
            error = error_of(self.by_oracle[point.name], alone.values[point.name], counted)
            if error > self.tolerances.network:
                hint = self._hint(point.name, point.sublayer)
                return NetworkFault(point.name, point.sublayer, error, self.tolerances.network, hint)
        return None

    def _hint(self, name: str, sublayer: str) -> str:
        """What in the wrong sublayer the contract does not speak of; "" where that cannot be told."""
        if name != f"{sublayer}.contribution" or not sublayer.endswith(".mlp"):
            return ""
        names = [point.name for point in self.points if point.name in self.tapped]
        activation = self._checkpoint.config.contract.feed_forward.activation
        return foreign_activations(self.network, name, names[: names.index(name)], activation)

    def counted(self, evaluation: Evaluation, name: str, margin: float) -> Array | None:
        """The rows of a tensor that mean something: no padding, and no token that a rounding sends elsewhere."""
        value = evaluation.values[name]
        found: Array | None = None
        mask = self.inputs.get("attention_mask")
        if mask is not None and value.ndim == 3 and value.shape[:2] == mask.shape:
            found = np.asarray(mask) != 0
        margins = evaluation.margins.get(name)
        if margins is not None:
            found = margins > margin if found is None else found & (margins > margin)
        return found
