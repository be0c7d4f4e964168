"""An engine built again from what its directory says: the same settings, the same maths, for the host at hand."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from trtllm_ext.builder.build_config import BuildConfig
from trtllm_ext.builder.engine import EngineConfig, differences
from trtllm_ext.checkpoint import Contract, load_config
from trtllm_ext.errors import BuildError, ConfigError, EngineError
from trtllm_ext.runtime.engine_dir import EngineDir, read_config
from trtllm_ext.runtime.envelope import Envelope, envelope_name
from trtllm_ext.runtime.json_files import to_json

# Of a model's config: how it is split and where it came from, which an engine of the same maths may differ in.
_MAY_DIFFER = frozenset({"contract", "mapping", "source"})


def build_config_of_engine(
    engine_dir: str | os.PathLike[str], checkpoint_dir: str | os.PathLike[str]
) -> BuildConfig:
    """The build config that an engine directory keeps, after its model has been compared with a checkpoint's.

    The engine itself is not read, and need not be one that could run here: another library's, another device's, of an
    earlier format, damaged. Timing caches are left out where their files are not here.
    Raises EngineError when config.json is not the one that was built, CheckpointError as `load_config` does, and
    BuildError when the checkpoint is of another model.
    """
    config = EngineConfig.from_dict(_stored_config(Path(engine_dir)))
    checkpoint = load_config(Path(checkpoint_dir)).to_dict()
    _check_same_model(config.pretrained_config, checkpoint, os.fspath(engine_dir), os.fspath(checkpoint_dir))
    return _without_lost_caches(config.build_config)


def with_changes(config: BuildConfig, changes: dict[str, Any]) -> BuildConfig:
    """A stored config with settings that were given anew; what was tuned for stays within their limits."""
    changes = dict(changes)
    for what in ("num_tokens", "batch_size"):
        most, tuned = changes.get(f"max_{what}"), getattr(config, f"opt_{what}")
        if isinstance(most, int) and tuned is not None and tuned > most:
            changes.setdefault(f"opt_{what}", most)
    return config.updated(**changes)


def _stored_config(directory: Path) -> dict[str, Any]:
    """What config.json says, compared with the envelope wherever that can be read."""
    try:
        Envelope.read(directory / envelope_name(0))
    except EngineError:  # missing, damaged or of a later format: what config.json says stands for itself
        return read_config(directory)
    return EngineDir.read(directory).config


def _check_same_model(built: dict[str, Any], given: dict[str, Any], engine: str, checkpoint: str) -> None:
    given = json.loads(to_json(given))  # tuples are lists there, as in what was stored
    contracts = [_as_read_now(each.get("contract")) for each in (built, given)]
    known = [key for key in built if key in given and key not in _MAY_DIFFER]
    ours = {"contract": contracts[0], **{key: built[key] for key in known}}
    theirs = {"contract": contracts[1], **{key: given[key] for key in known}}
    for name, (one, other) in differences(ours, theirs):
        raise BuildError(
            f"{checkpoint} is not a checkpoint of the model that {engine} was built from: {name} is {other!r:.80} "
            f"there and {one!r:.80} in the engine. Give the checkpoint that it was built from, or build without "
            f"--from-engine."
        )


def _as_read_now(contract: Any) -> Any:
    """A contract in the form of this version, which fills in what an earlier one left out."""
    if not isinstance(contract, dict):
        return contract
    try:
        return json.loads(to_json(Contract.from_dict(contract).to_dict()))
    except ConfigError:
        return contract


def _without_lost_caches(config: BuildConfig) -> BuildConfig:
    """Without timing caches of the host that built: an input that is not here, an output with nowhere to go."""
    values = config.to_dict()
    if config.input_timing_cache is not None and not Path(config.input_timing_cache).is_file():
        del values["input_timing_cache"]
    if not Path(config.output_timing_cache).parent.is_dir():
        del values["output_timing_cache"]
    return BuildConfig.from_dict(values, explicit=config.explicit & set(values))
