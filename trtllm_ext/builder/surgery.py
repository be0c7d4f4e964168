"""Surgery: values of the residual stream that a run may change by inputs of its own, without a rebuild.

A value of `layers.Residual` under its tap's name, NAME, becomes scale * value + add: a contribution has the inputs
NAME.scale (float32, [1]) and NAME.add, the stream before and after a sum NAME.add alone. `add` has the value's own type
and shape. The sum is computed in float32 where the type is narrower, and rounded once. scale = 0 drops a contribution,
NaN and infinity in it too, and with an add replaces it. A run that leaves them out has the network unchanged: it is
given 1 and -0.0, which added leaves every number as it is, the sign of a zero too.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from trtllm_ext.builder.taps import no_match
from trtllm_ext.errors import ConfigError, EngineError
from trtllm_ext.graph import Tensor, functional
from trtllm_ext.layers.tensor_parallel import own_tokens
from trtllm_ext.runtime.input_defaults import InputDefault

SCALE, ADD = "scale", "add"
# What `add` is where a run leaves it out. Not 0.0, which makes 0.0 of -0.0.
NOTHING = -0.0
# Names of sizes that do not vary, from the last dimension on, for messages.
_SIZES = ("hidden_size", "num_streams")


@dataclass(frozen=True)
class SurgeryPoint:
    """A value that a run may change. point, meaning: as a Tap's. inputs: what changes it, by name."""

    point: str
    meaning: str
    inputs: dict[str, InputDefault]


class Surgeon:
    """The changer (`graph.changes`) of a build: adds the inputs of the values that patterns name, and what they do.

    inputs: the model's; the lengths of a value that vary are those of the first of them, in order. patterns: as of
    `mark_taps`.
    To be used for one network, inside its net_guard.
    """

    def __init__(self, model: Any, inputs: Mapping[str, Tensor], patterns: tuple[str, ...]) -> None:
        self.points: dict[str, SurgeryPoint] = {}
        self._model, self._inputs, self._patterns = model, inputs, patterns
        self._paths = {id(module): path for path, module in model.named_modules()} if patterns else {}
        self._uses: Counter[tuple[int, str]] = Counter()
        self._noted: list[str] = []

    def takes(self, module: Any, point: str) -> bool:
        name = self._name(module, point)
        return any(fnmatchcase(name, pattern) for pattern in self._patterns)

    def change(self, module: Any, point: str, value: Any, meaning: str, token_group: list[int] | None) -> Any:
        """Raises ConfigError for a value of which it cannot be told what its lengths are those of."""
        if not self._patterns:
            return value
        name, is_asked = self._name(module, point), self.takes(module, point)
        self._noted.append(name)
        self._uses[id(module), point] += 1
        if not is_asked:
            return value
        inputs: dict[str, InputDefault] = {}
        scale = self._scale_input(f"{name}.{SCALE}", inputs) if point == "contribution" else None
        added = self._add_input(f"{name}.{ADD}", value, inputs)
        if token_group is not None:
            mapping = self._model.config.mapping
            added = own_tokens(added, mapping.tp_size, mapping.tp_rank)
        self.points[name] = SurgeryPoint(point, meaning, inputs)
        if scale is None:
            return value + added
        scaled = functional.cast(value, "float32") * scale
        # A dropped NaN or infinity must not come back as 0 times it.
        scaled = functional.where(functional.eq(scale, 0.0), 0.0, scaled)
        return functional.cast(scaled + functional.cast(added, "float32"), value.dtype)

    def check(self) -> None:
        """After the model's forward: raise ConfigError for a pattern that has matched nothing."""
        for pattern in self._patterns:
            if not any(fnmatchcase(name, pattern) for name in self._noted):
                raise ConfigError(no_match("surgery", pattern, self._noted, type(self._model).__name__))

    def _name(self, module: Any, point: str) -> str:
        """The name under which the next value noted so is tapped."""
        path, uses = self._paths.get(id(module), ""), self._uses[id(module), point]
        key = f"{point}_{uses}" if uses else point
        return f"{path}.{key}" if path else key

    def _scale_input(self, name: str, inputs: dict[str, InputDefault]) -> Tensor:
        """The input of one number; its default is put among `inputs`."""
        inputs[name] = InputDefault(1.0, (1,))
        return Tensor(
            name=name, dtype="float32", shape=[1], dim_range=OrderedDict(one=[1] * self._num_profiles())
        )

    def _add_input(self, name: str, value: Any, inputs: dict[str, InputDefault]) -> Tensor:
        """The input of a value's shape; its default is put among `inputs`."""
        first = next(iter(self._inputs.values()))
        varying = [axis for axis, size in enumerate(first.shape) if size == -1]
        shape = tuple(value.shape)
        if shape.count(-1) != len(varying):
            raise ConfigError(
                f"surgery: {name.rpartition('.')[0]} has the shape {shape}, and which of its lengths are those of the "
                f"input {first.name!r}, {tuple(first.shape)}, cannot be told. Leave it out of surgery."
            )
        dims: list[int | tuple[str, int]] = []
        ranges: OrderedDict[str, list[Any]] = OrderedDict()
        for place, size in enumerate(shape):
            if size == -1:
                axis = varying[shape[:place].count(-1)]
                dims.append((first.name, axis))
                ranges[first.profiles[0].dimension_names[axis]] = [
                    [each.min[axis], each.opt[axis], each.max[axis]] for each in first.profiles
                ]
            else:
                dims.append(int(size))
                ranges[self._size_name(len(shape) - 1 - place, int(size))] = [
                    int(size)
                ] * self._num_profiles()
        inputs[name] = InputDefault(NOTHING, tuple(dims))
        return Tensor(name=name, dtype=value.dtype, shape=list(shape), dim_range=ranges)

    def _size_name(self, from_last: int, size: int) -> str:
        """The name of a size that does not vary: of one name there is one size in all inputs."""
        name = _SIZES[from_last] if from_last < len(_SIZES) else f"size_{from_last}"
        for each in self._inputs.values():
            for bounds in each.profiles:
                names = list(bounds.dimension_names)
                if name in names and bounds.max[names.index(name)] != size:
                    return f"{name}_{size}"
        return name

    def _num_profiles(self) -> int:
        return len(next(iter(self._inputs.values())).profiles) or 1


def surgery_to_json(points: Mapping[str, SurgeryPoint]) -> dict[str, Any]:
    """As an engine directory's config.json has them."""
    return {
        name: {
            "point": each.point,
            "meaning": each.meaning,
            "inputs": {input_name: default.to_json() for input_name, default in each.inputs.items()},
        }
        for name, each in points.items()
    }


def surgery_from_json(values: Any) -> dict[str, SurgeryPoint]:
    """The reverse of `surgery_to_json`. Raises EngineError for anything else."""
    try:
        return {
            str(name): SurgeryPoint(
                str(each["point"]),
                str(each["meaning"]),
                {str(key): InputDefault.from_json(default) for key, default in each["inputs"].items()},
            )
            for name, each in values.items()
        }
    except (AttributeError, TypeError, KeyError) as problem:
        raise EngineError(
            f"the engine's config has {values!r:.80} as surgery, where each name has a point, a meaning and inputs "
            f"({problem})."
        ) from problem
