"""Other weights for a built engine."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from trtllm_ext.embedded.enums import DataType, TensorLocation, WeightsRole
from trtllm_ext.embedded.layers.movement import as_weights
from trtllm_ext.embedded.logger import ILogger
from trtllm_ext.embedded.plan import RefitRecord
from trtllm_ext.embedded.plan.rewriting import WeightPlace
from trtllm_ext.embedded.running.engine import ICudaEngine
from trtllm_ext.embedded.surface.lifetime import Lifetime
from trtllm_ext.embedded.surface.recorded import Recorded
from trtllm_ext.embedded.tensor_types import element_type_numbered
from trtllm_ext.embedded.types import Weights
from trtllm_ext.errors import EngineError


class Refitter(Recorded, Lifetime):
    """Exchanges weights of an engine that was built with a refit flag.

    Weights are given by layer and role, or by the name that `INetworkDefinition.set_weights_name()` gave them. They
    are read by `refit_cuda_engine()`; contexts of the engine use them from their next run on. Weights of the wrong
    count or type, and names that are not there, are refused with an error in the log.
    """

    __slots__ = (
        "__weakref__",
        "_by_name",
        "_by_role",
        "_engine",
        "_given",
        "_locations",
        "_max_threads",
        "weights_validation",
    )

    def __init__(self, engine: ICudaEngine, logger: ILogger) -> None:
        self._report_to(logger)
        self._engine = engine
        self._max_threads = 1
        self.weights_validation = True
        self._given: dict[WeightPlace, Weights] = {}
        self._locations: dict[str, TensorLocation] = {}
        self._by_role: dict[tuple[str, WeightsRole], list[WeightPlace]] = {}
        self._by_name: dict[str, list[WeightPlace]] = {}
        records: Sequence[RefitRecord] = engine._header.refit
        for record in records:
            place = (record.segment, record.weight)
            self._by_role.setdefault((record.layer, WeightsRole[record.role]), []).append(place)
            if record.name:
                self._by_name.setdefault(record.name, []).append(place)
        if not engine.refittable:
            self._report(
                f"Refitter: engine {engine.name!r} is not refittable; build it with BuilderFlag.REFIT, "
                "REFIT_IDENTICAL or REFIT_INDIVIDUAL."
            )

    @property
    def logger(self) -> ILogger:
        """The logger given at creation."""
        return self._logger

    @property
    def max_threads(self) -> int:
        """Kept; ONNX Runtime prepares weights on the threads of the engine. Less than 1 logs an error."""
        return self._max_threads

    @max_threads.setter
    def max_threads(self, count: int) -> None:
        if count < 1:
            self._report(f"max_threads: {count} is less than 1; it stays {self._max_threads}.")
        else:
            self._max_threads = int(count)

    # What there is

    def get_all(self) -> tuple[list[str], list[WeightsRole]]:
        """Layers and roles of all weights that can be exchanged."""
        return _columns(self._by_role)

    def get_all_weights(self) -> list[str]:
        """Names of all weights that can be exchanged; an empty one for each that has none."""
        return self._names({place for places in self._by_role.values() for place in places})

    def get_missing(self) -> tuple[list[str], list[WeightsRole]]:
        """Layers and roles of weights without which the engine cannot run: those it was stripped of, until given."""
        missing = self._missing()
        return _columns(key for key, places in self._by_role.items() if not missing.isdisjoint(places))

    def get_missing_weights(self) -> list[str]:
        """Names of weights without which the engine cannot run; an empty one for each that has none."""
        return self._names(self._missing())

    def get_weights_prototype(self, weights_name: str) -> Weights:
        """Type and count of the weights of a name, without their elements; count -1 if there are none."""
        places = self._by_name.get(weights_name)
        if places is None:
            return Weights._prototype(DataType.FLOAT, -1)
        return Weights._prototype(*self._kind(places[0]))

    # Weights to come

    def set_weights(self, layer_name: str, role: WeightsRole, weights: Any) -> bool:
        """Give weights by layer and role."""
        places = self._by_role.get((layer_name, role))
        if places is None:
            there = sorted(key[1].name for key in self._by_role if key[0] == layer_name)
            detail = f"; it has {', '.join(there)}" if there else ""
            return self._refuse("set_weights", f"layer {layer_name!r} has no refittable {role}{detail}.")
        return self._give("set_weights", places, as_weights(weights))

    def set_named_weights(
        self, name: str, weights: Any, location: TensorLocation = TensorLocation.HOST
    ) -> bool:
        """Give weights by name. Every location means host memory."""
        places = self._by_name.get(name)
        if places is None:
            return self._refuse("set_named_weights", f"the engine has no refittable weights named {name!r}.")
        if not self._give("set_named_weights", places, as_weights(weights)):
            return False
        self._locations[name] = TensorLocation(location)
        return True

    def get_named_weights(self, weights_name: str) -> Weights:
        """The weights given for a name; empty ones, with an error in the log, if there are none."""
        given = self._given.get(self._by_name.get(weights_name, [(-1, "")])[0])
        if given is None:
            self._refuse("get_named_weights", f"no weights were given for {weights_name!r}.")
            return Weights()
        return given

    def get_weights_location(self, weights_name: str) -> TensorLocation:
        """The location given for a name; HOST, with an error in the log, if there is none."""
        if weights_name not in self._locations:
            self._refuse("get_weights_location", f"no weights were given for {weights_name!r}.")
        return self._locations.get(weights_name, TensorLocation.HOST)

    def unset_named_weights(self, weights_name: str) -> bool:
        """Forget the weights given for a name; False if there are none."""
        places = self._by_name.get(weights_name, [])
        self._locations.pop(weights_name, None)
        found = [self._given.pop(place, None) for place in places]
        return any(given is not None for given in found)

    # The exchange

    def refit_cuda_engine(self) -> bool:
        """Give the engine the weights. False, with an error in the log, if weights are missing or are refused."""
        return self._refit("refit_cuda_engine")

    def refit_cuda_engine_async(self, stream_handle: int) -> bool:
        """As `refit_cuda_engine()`; it has happened when the call returns, whatever the stream."""
        return self._refit("refit_cuda_engine_async")

    def _refit(self, method: str) -> bool:
        if not self._engine.refittable:
            return self._refuse(method, f"engine {self._engine.name!r} is not refittable.")
        missing = self._missing()
        if missing:
            names = [f"{role.name} of {layer}" for layer, role in zip(*self.get_missing(), strict=True)]
            return self._refuse(method, f"{len(missing)} weights are missing: {', '.join(names[:8])}.")
        try:
            # Copies, since the application may change or free what it gave as soon as this returns.
            self._engine._exchange({place: np.array(given._bytes()) for place, given in self._given.items()})
        except (EngineError, MemoryError) as error:
            return self._refuse(
                method, f"the weights cannot be used: {error or 'there is not enough memory'}"
            )
        return True

    # Dynamic ranges, which implicit quantization had

    def set_dynamic_range(self, tensor_name: str, range: Sequence[float]) -> bool:
        """False, with an error in the log: no tensor has a dynamic range that could be exchanged."""
        return self._refuse("set_dynamic_range", f"{tensor_name!r} has no dynamic range in this engine.")

    def get_dynamic_range(self, tensor_name: str) -> tuple[float, float]:
        """(0, 0), with an error in the log."""
        self._refuse("get_dynamic_range", f"{tensor_name!r} has no dynamic range in this engine.")
        return 0.0, 0.0

    def get_tensors_with_dynamic_range(self) -> list[str]:
        """Always empty."""
        return []

    # Inside

    def _missing(self) -> set[WeightPlace]:
        loaded = self._engine._loaded
        return set() if loaded is None else loaded.segments.missing.difference(self._given)

    def _names(self, wanted: set[WeightPlace]) -> list[str]:
        named = [name for name, places in self._by_name.items() if not wanted.isdisjoint(places)]
        return named + [""] * len(wanted.difference(*self._by_name.values()))

    def _kind(self, place: WeightPlace) -> tuple[DataType, int]:
        record = next(one for one in self._engine._header.segments[place[0]].weights if one.name == place[1])
        element = element_type_numbered(record.onnx_type)
        return element.dtype, record.nbytes // element.storage.itemsize

    def _give(self, method: str, places: Iterable[WeightPlace], weights: Weights) -> bool:
        for place in places:
            dtype, count = self._kind(place)
            if (weights.dtype, weights.size) != (dtype, count):
                return self._refuse(
                    method,
                    f"{weights.size} weights of {weights.dtype.name} were given where the engine has {count} of "
                    f"{dtype.name}.",
                )
        self._given.update(dict.fromkeys(places, weights))
        return True

    def _refuse(self, method: str, reason: str) -> bool:
        self._report(f"{method}: {reason}")
        return False


def _columns(
    keys: Mapping[tuple[str, WeightsRole], Any] | Iterable[tuple[str, WeightsRole]],
) -> tuple[list[str], list[WeightsRole]]:
    pairs = list(keys)
    return [layer for layer, _ in pairs], [role for _, role in pairs]
