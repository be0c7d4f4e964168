"""An engine built again from what its directory says: the same settings, the same maths, for the host at hand."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from trtllm_ext.builder.build_config import BuildConfig
from trtllm_ext.builder.engine import EngineConfig
from trtllm_ext.builder.same_model import check_same_model
from trtllm_ext.checkpoint import load_config
from trtllm_ext.errors import EngineError
from trtllm_ext.runtime.engine_dir import CONFIG_NAME, read_config
from trtllm_ext.runtime.envelope import Envelope, envelope_name
from trtllm_ext.runtime.json_files import canonical_digest, read_json_object

_WITHOUT = "build without --from-engine, giving the flags."


def build_config_of_engine(
    engine_dir: str | os.PathLike[str], checkpoint_dir: str | os.PathLike[str]
) -> BuildConfig:
    """The build config that an engine directory keeps, after its model has been compared with a checkpoint's.

    The engine itself is not read, and need not be one that could run here: another library's, another device's, of an
    earlier format, damaged. config.json must be whole. Timing caches are left out where their files are not here.
    Raises EngineError when config.json is not the one that was built, CheckpointError as `load_config` does, and
    ConfigError when the checkpoint is of another model.
    """
    stored = _stored_config(Path(engine_dir))
    if "build_config" not in stored:
        raise EngineError(
            f"{os.fspath(engine_dir)} holds a config.json without a build config: it is a checkpoint, or no engine "
            f"directory. Give what `trtllm-ext build --output_dir` wrote."
        )
    config = EngineConfig.from_dict(stored)
    check_same_model(
        config.pretrained_config,
        load_config(Path(checkpoint_dir)),
        engine=engine_dir,
        checkpoint=checkpoint_dir,
        way_out="Give the checkpoint that it was built from, or build without --from-engine.",
    )
    return _without_lost_caches(config.build_config)


def with_changes(config: BuildConfig, changes: dict[str, Any]) -> BuildConfig:
    """A stored config with settings that were given anew; what was tuned for stays within their limits."""
    changes = dict(changes)
    for what in ("num_tokens", "batch_size"):
        most, tuned = changes.get(f"max_{what}"), getattr(config, f"opt_{what}")
        if isinstance(most, int) and tuned is not None and tuned > most:
            changes.setdefault(f"opt_{what}", most)
    return config.updated(**changes)


def for_this_process(config: BuildConfig, **changes: Any) -> BuildConfig:
    """A stored config for networks and engines that stay in memory: with its weights, and no files of any host.

    An engine without its weights does not run, so use_strip_plan is off; names of weights stay where they were given.
    """
    values = config.to_dict() | {"input_timing_cache": None, "dry_run": False, "visualize_network": None}
    values["use_refit"], values["use_strip_plan"] = config.use_refit or config.use_strip_plan, False
    del values["output_timing_cache"]  # given or not: nothing is measured for somebody to keep
    values |= changes
    return BuildConfig.from_dict(values, explicit=(config.explicit & set(values)) | set(changes))


def _stored_config(directory: Path) -> dict[str, Any]:
    """What config.json says, compared with the envelope wherever that can be read."""
    config_path = directory / CONFIG_NAME
    if not directory.is_dir():
        return read_config(directory)  # which says what is there instead
    if not config_path.is_file():
        raise EngineError(f"{directory} has no {CONFIG_NAME}, and so no build config; {_WITHOUT}")
    config = read_json_object(
        config_path, EngineError, way_out=f"Its build config cannot be trusted; {_WITHOUT}"
    )
    try:
        envelope = Envelope.read(directory / envelope_name(0))
    except EngineError:  # missing, damaged or of a later format: what config.json says stands for itself
        return config
    if canonical_digest(config) != envelope.config_sha256:
        raise EngineError(
            f"{config_path} is not the file that the build wrote, by {envelope_name(0)}: it was edited or damaged, or "
            f"comes from another build. Its build config cannot be trusted; {_WITHOUT}"
        )
    return config


def _without_lost_caches(config: BuildConfig) -> BuildConfig:
    """Without timing caches of the host that built: an input that is not here, an output with nowhere to go."""
    values = config.to_dict()
    if config.input_timing_cache is not None and not Path(config.input_timing_cache).is_file():
        del values["input_timing_cache"]
    if not Path(config.output_timing_cache).parent.is_dir():
        del values["output_timing_cache"]
    return BuildConfig.from_dict(values, explicit=config.explicit & set(values))
