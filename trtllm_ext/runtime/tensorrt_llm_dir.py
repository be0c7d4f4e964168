"""Engine directories that trtllm-build wrote: config.json and engines, without envelopes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from trtllm_ext import backend
from trtllm_ext.embedded.plan.layout import MAGIC
from trtllm_ext.errors import EngineError
from trtllm_ext.runtime.device import compute_capability
from trtllm_ext.runtime.dtypes import readable
from trtllm_ext.runtime.envelope import Envelope, TensorSummary, ends_digest, engine_name, envelope_name
from trtllm_ext.runtime.json_files import canonical_digest

_log = logging.getLogger(__name__)


def is_tensorrt_llms(directory: Path, config: dict[str, Any], rank: int) -> bool:
    """Whether a directory whose config.json is `config` is an engine directory of TensorRT-LLM's."""
    parts = ("version", "pretrained_config", "build_config")
    return (
        "build_id" not in config
        and all(part in config for part in parts)
        and not (directory / envelope_name(rank)).exists()
    )


def made_up_envelope(directory: Path, config: dict[str, Any], rank: int) -> Envelope:
    """What the envelope would say, as far as the files do.

    The library and the device that the engine was built for are taken to be those in use, and the file to be as it was
    written, of which no sum is made: nothing tells. Raises EngineError for a rank without an engine.
    """
    path = directory / engine_name(rank)
    mapping = config["pretrained_config"].get("mapping")
    world_size = int(mapping.get("world_size", 1)) if isinstance(mapping, dict) else 1
    if rank >= world_size:
        raise EngineError(f"{directory} was built for {world_size} rank(s); there is no rank {rank}.")
    try:
        with path.open("rb") as file:
            is_embedded = file.read(len(MAGIC)) == MAGIC
            size = path.stat().st_size
            ends = ends_digest(file, size)
    except OSError as problem:
        raise EngineError(
            f"{path} cannot be read ({problem.strerror}), though {directory} was built for {world_size} rank(s). Copy "
            "the whole directory again, or build again."
        ) from problem
    _log.info(
        "%s was written by TensorRT-LLM %s without an envelope: whether it was built by the TensorRT and for the "
        "device in use, and whether it is whole, is not checked",
        path,
        config["version"],
    )
    digest = canonical_digest(config)
    return Envelope(
        engine_kind=_kind(is_embedded),
        engine_version=str(getattr(backend.tensorrt(), "__version__", "unknown")),
        compute_capability=compute_capability(),
        build_id=digest[:32],
        contract_sha256=canonical_digest(config["pretrained_config"].get("contract")),
        config_sha256=digest,
        rank=rank,
        world_size=world_size,
        engine_bytes=size,
        engine_crc32=0,
        engine_ends_sha256=ends,
        built_by=f"tensorrt_llm {config['version']}",
        inputs=(),
        outputs=(),
    )


def inputs_of(session: Any) -> tuple[TensorSummary, ...]:
    """What the envelope would say of the inputs, as the engine that a session has loaded tells it."""
    return tuple(
        TensorSummary(
            name=each.name,
            dtype=readable(each.dtype),
            shape=tuple(each.shape),
            profiles=tuple(session.profiles(each.name)),
        )
        for each in session.inputs
    )


def _kind(is_embedded: bool) -> str:
    """The kind of an engine by how its file begins."""
    # Whatever stands at `tensorrt` reads what it wrote itself.
    in_use = backend.choice().engine
    reads_plans = getattr(backend.tensorrt(), "__name__", "") == backend.EMBEDDED_MODULE
    return in_use if is_embedded == reads_plans else ("embedded" if is_embedded else "tensorrt")
