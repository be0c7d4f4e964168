"""Whether a checkpoint is of the model that an engine was built from, whatever its weights."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from typing import Any

from trtllm_ext.builder.engine import differences
from trtllm_ext.checkpoint import Contract, ModelConfig
from trtllm_ext.errors import ConfigError
from trtllm_ext.runtime.json_files import to_json

# Where the weights come from, and how they are dealt out.
_BESIDE_THE_MODEL = frozenset({"source", "mapping"})
# So much of a value is shown.
_MOST = 80


def check_same_model(
    built: Mapping[str, Any],
    config: ModelConfig,
    *,
    engine: str | os.PathLike[str],
    checkpoint: str | os.PathLike[str],
    way_out: str,
    may_differ: Collection[str] = _BESIDE_THE_MODEL,
) -> None:
    """Raise ConfigError, with the first difference, for a checkpoint of another model than the engine's.

    built: the engine's pretrained_config; keys that only one of the two has, as of another version, are not compared.
    config: of the checkpoint. engine, checkpoint: their names in the sentence. may_differ: keys that are not compared.
    """
    ours, theirs = _plain(built), _plain(config.to_dict())
    # The contract first, which says most, and in any case: without one an engine is of no model of a checkpoint here.
    ours, theirs = ({"contract": _as_read_now(each.pop("contract", None)), **each} for each in (ours, theirs))
    known = [key for key in ours if key in theirs and key not in may_differ]
    for name, (one, other) in differences(
        {key: ours[key] for key in known}, {key: theirs[key] for key in known}
    ):
        raise ConfigError(
            f"{os.fspath(checkpoint)} is of another model than {os.fspath(engine)} was built from: config {name} is "
            f"{_short(other)} there and {_short(one)} in the engine. {way_out}"
        )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MOST else f"{text[:_MOST]}..."


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """As what was stored is read: tuples are lists there."""
    found: dict[str, Any] = json.loads(to_json(dict(values)))
    return found


def _as_read_now(contract: Any) -> Any:
    """A contract in the form of this version, which fills in what an earlier one left out."""
    if not isinstance(contract, dict):
        return contract
    try:
        return _plain(Contract.from_dict(contract).to_dict())
    except ConfigError:
        return contract
