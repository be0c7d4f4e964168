"""Timing caches: measured times of earlier builds, from a file and to a file.

A cache saves time and decides nothing else, so one that cannot be used (damaged, or of another library or device) is
left aside with a warning, and a fresh one is begun.
"""

import logging
import os
from pathlib import Path
from typing import Any

from trtllm_ext.errors import BuildError, ConfigError
from trtllm_ext.runtime.atomic import replaced_file

_log = logging.getLogger(__name__)


def attach_timing_cache(config: Any, timing_cache: Any, logger: Any) -> None:
    """Give a `trt.IBuilderConfig` its timing cache.

    timing_cache: path, `trt.ITimingCache`, or None for a fresh one; a path without a file begins a fresh one, too.
    logger: the recording logger of the builder, whose words the warning repeats.
    Raises ConfigError for a file that cannot be read.
    """
    if isinstance(timing_cache, str | os.PathLike):
        _attach_file(config, Path(timing_cache), logger)
        return
    cache = _created(config, b"") if timing_cache is None else timing_cache
    if cache is not None:
        config.set_timing_cache(cache, ignore_mismatch=False)


def write_timing_cache(config: Any, path: str | os.PathLike[str]) -> bool:
    """Write a config's timing cache to a file, whole or not at all; False when it has none. Raises BuildError."""
    cache = config.get_timing_cache()
    if cache is None:
        return False
    with replaced_file(path, error=BuildError) as file:
        file.write_bytes(memoryview(cache.serialize()))
    return True


def _attach_file(config: Any, path: Path, logger: Any) -> None:
    try:
        data = path.read_bytes() if path.is_file() else b""
    except OSError as problem:
        raise ConfigError(f"the timing cache {path} cannot be read: {problem.strerror}.") from problem
    mark = logger.mark()
    cache = _created(config, data)
    if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
        return
    said = logger.errors_since(mark).rstrip(". ") or "it is damaged, or of another library, version or device"
    _log.warning("the timing cache %s is left aside: %s. The build measures anew.", path, said)
    fresh = _created(config, b"")
    if fresh is not None:
        config.set_timing_cache(fresh, ignore_mismatch=False)


def _created(config: Any, data: bytes) -> Any:
    try:
        return config.create_timing_cache(data)
    except (TypeError, RuntimeError):  # what a null pointer from C++ may become
        return None
