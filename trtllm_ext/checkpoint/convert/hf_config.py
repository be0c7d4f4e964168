"""A Hugging Face config.json, read field by field: what was not read has to be known to have no say in the maths."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from trtllm_ext.checkpoint.convert.activation_names import ACTIVATION_NAMES
from trtllm_ext.checkpoint.convert.hf_fields import HF_FIELDS_WITHOUT_MATHS
from trtllm_ext.checkpoint.convert.source import check_source_fields
from trtllm_ext.errors import CheckpointError
from trtllm_ext.suggest import closest

_REQUIRED: Any = object()


class HfConfig:
    """The fields of a config.json, each taken by a method that checks it.

    path: named in messages. data: the fields. A default stands for a field that is missing or null (but see `flag`);
    without one the field has to be there. Every method raises CheckpointError with the field, its value and what is
    allowed.
    """

    def __init__(self, path: Path, data: Mapping[str, Any]) -> None:
        self.path = path
        self._data = data
        self._read: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return self._data.get(name) is not None

    def get(self, name: str, default: Any = _REQUIRED) -> Any:
        """The field as it is."""
        self._read.add(name)
        value = self._data.get(name)
        if value is None:
            if default is _REQUIRED:
                raise CheckpointError(
                    f"{self.path} lacks {name}, which this architecture's maths depends on."
                )
            return default
        return value

    def nested(self, name: str) -> HfConfig:
        """The fields of an object inside; its own `finish` is not called by this one's."""
        value = self.get(name)
        if not isinstance(value, dict):
            raise CheckpointError(f"{self.path}: {name}={value!r} is not an object.")
        return HfConfig(self.path, value)

    def size(self, name: str, default: Any = _REQUIRED) -> int:
        """A positive integer."""
        value = self.get(name, default)
        if type(value) is not int or value < 1:
            raise CheckpointError(f"{self.path}: {name}={value!r} is not a positive integer.")
        return value

    def flag(self, name: str, default: Any = _REQUIRED) -> bool:
        """true or false. Null, which `if config.field` takes for False, is refused where the default is True."""
        if default is True and self._is_null(name):
            default = None
        value = self.get(name, default)
        if not isinstance(value, bool):
            raise CheckpointError(f"{self.path}: {name}={value!r} is not true or false.")
        return value

    def number(self, name: str, default: Any = _REQUIRED) -> float:
        """A finite number."""
        value = self.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise CheckpointError(f"{self.path}: {name}={value!r} is not a finite number.")
        return float(value)

    def eps(self, name: str, default: Any = _REQUIRED) -> float:
        """A norm's epsilon: a number between 0 and 1."""
        value = self.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
            raise CheckpointError(f"{self.path}: {name}={value!r} is not a number between 0 and 1.")
        return float(value)

    def activation(self, name: str, default: Any = _REQUIRED, means: Mapping[str, str] | None = None) -> str:
        """An activation, by the contract's name. means: what this architecture calls otherwise than ACT2FN."""
        value = self.get(name, default)
        names = {**ACTIVATION_NAMES, **(means or {})}
        if not isinstance(value, str) or value not in names:
            near = closest(value, names) if isinstance(value, str) else []
            told = " or ".join(f"{known} ({names[known]})" for known in near) or ", ".join(
                f"{known} ({meaning})" for known, meaning in names.items()
            )
            raise CheckpointError(
                f"{self.path}: {name}={value!r} is not known. "
                + (f"Did you mean {told}?" if near else f"Known, with the function that each means: {told}.")
            )
        return names[value]

    def fixed(self, name: str, *allowed: Any) -> None:
        """Refuse a field that has any value but these; missing means the first, null too unless that is True."""
        value = self.get(name, None if allowed[0] is True and self._is_null(name) else allowed[0])
        if not any(type(value) is type(each) and value == each for each in allowed):
            raise CheckpointError(
                f"{self.path}: {name}={value!r} is not supported; expected "
                + " or ".join(repr(each) for each in allowed)
                + "."
            )

    def _is_null(self, name: str) -> bool:
        return name in self._data and self._data[name] is None

    def unquantized(self) -> None:
        """Refuse weights in a code, unless the architecture's own reader has looked at it."""
        if "quantization_config" not in self._read and self.get("quantization_config", None) is not None:
            raise CheckpointError(
                f"{self.path}: quantization_config={self._data['quantization_config']!r}: weights in such a code are "
                "not read. Dequantise the model first: save it in float16, bfloat16 or float32."
            )

    def finish(self, others: Collection[str]) -> None:
        """Refuse a field that was not read and is not among `others`, which have no say in what is converted."""
        check_source_fields(
            self._data,
            {*self._read, *others, *HF_FIELDS_WITHOUT_MATHS},
            self.path,
            advice="It may change the maths of the model, so it is not passed over; if it does not, take it out of "
            "the file.",
        )
