"""What the caller knows of a network that the network itself does not tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trtllm_ext.oracle.plugin import Meaning


@dataclass(frozen=True)
class Supplied:
    """Functions of plugins by the name of a layer or plugin, values by that of a tensor, weights by that of a layer."""

    plugins: Mapping[str, Meaning]
    given: Mapping[str, Any]
    weights: Mapping[str, Any]
