"""A session's own tensors, served."""

from typing import Any

import numpy as np

from trtllm_ext.builder.taps import taps_from_json
from trtllm_ext.errors import InputError
from trtllm_ext.models import MODELS
from trtllm_ext.models.sentence_encoder import MOST_TOKENS
from trtllm_ext.runtime import EngineDir, LeadingSession, Session
from trtllm_ext.runtime.ports import ports_of
from trtllm_ext.runtime.tensors import Port
from trtllm_ext.serve.datatypes import protocol_name
from trtllm_ext.serve.joining import Arrays, Extent, Joining
from trtllm_ext.serve.runner import Runner, TensorSpec

# Models whose second dimension may be padded with zeros besides: their mask hides it.
_PADDED = ("Encoder",)
_TOKEN_IDS = {"input_ids": "vocab_size", "token_type_ids": "type_vocab_size"}


class SessionRunner(Runner):
    """Runs a session. Requests of models of this package are joined; those of other networks run alone.

    Raises EngineError for tensors of types that the protocol does not have.
    """

    def __init__(self, session: Session | LeadingSession) -> None:
        directory = session.engine_dir
        every = ports_of(session.engine, directory.envelope if directory else None)
        # What a run may leave out changes the network for all requests of a batch: no client's affair.
        ports = [port for port in every if port.name not in session.input_defaults]
        config = directory.config.get("pretrained_config", {}) if directory else {}
        super().__init__(
            inputs=tuple(_spec(port) for port in ports if port.is_input),
            outputs=tuple(_spec(port) for port in ports if not port.is_input),
            joining=joining_of(ports, str(config.get("architecture")))
            if _are_taps_known(directory)
            else None,
            description=description_of(session),
        )
        self.session = session
        self._ports = {port.name: port for port in ports if port.is_input}
        self._sizes = {
            name: int(config[size])
            for name, size in _TOKEN_IDS.items()
            if config.get("architecture") == "Encoder" and name in self._ports and config.get(size)
        }

    def check(self, arrays: Arrays) -> None:
        for name, port in self._ports.items():
            port.check_shape(arrays[name].shape)
        for name, size in self._sizes.items():
            _check_ids(name, arrays[name], size)

    def run(self, arrays: Arrays) -> Arrays:
        return self.session.run(arrays)

    def close(self) -> None:
        self.session.close()


def joining_of(ports: list[Port], architecture: str) -> Joining | None:
    """How requests for an engine of this architecture are joined; None where they cannot be."""
    model = MODELS.get(architecture)
    free = 2 if architecture in _PADDED else 1
    varying = {port.name: tuple(i for i, dim in enumerate(port.shape) if dim < 0) for port in ports}
    inputs = [port for port in ports if port.is_input]
    if model is None or not model.has_independent_rows:
        return None
    if any(port.is_shape or len(varying[port.name]) != free for port in inputs):
        return None
    if any(not varying[port.name] or (free == 1 and len(varying[port.name]) > 1) for port in ports):
        return None
    axes = varying[inputs[0].name]
    return Joining(
        inputs={port.name: varying[port.name][0] for port in inputs},
        outputs={port.name: varying[port.name][0] for port in ports if not port.is_input},
        padded={name: found[1:] for name, found in varying.items() if found[1:]},
        limits=[(_extent(least, axes), _extent(most, axes)) for least, most in inputs[0].ranges],
        max_cells=MOST_TOKENS if free == 2 else 0,
    )


def _are_taps_known(directory: EngineDir | None) -> bool:
    """Whether what each output means is known: one that somebody's own layer noted may have rows of its own."""
    taps = directory.config.get("taps", {}) if directory else {}
    return all(tap.is_known for tap in taps_from_json(taps).values())


def _extent(shape: tuple[int, ...], axes: tuple[int, ...]) -> Extent:
    return Extent(*(shape[axis] for axis in axes))


def _spec(port: Port) -> TensorSpec:
    return TensorSpec(
        name=port.name,
        datatype=protocol_name(port.dtype, port.name),
        shape=port.shape,
        check_shape=port.check_shape if port.is_input else None,
    )


def _check_ids(name: str, ids: np.ndarray[Any, Any], size: int) -> None:
    # Negative ones are large where there is no sign.
    if ids.size and ids.view(f"u{ids.itemsize}").max() >= size:
        raise InputError(
            f"input {name!r} holds ids from {ids.min()} to {ids.max()}; this model has 0 to {size - 1}, at padding too."
        )


def description_of(session: Session | LeadingSession) -> dict[str, str]:
    """What the metadata say of an engine of a directory beside its tensors."""
    if session.engine_dir is None:
        return {}
    envelope, config = session.engine_dir.envelope, session.engine_dir.config
    told = {
        "architecture": config.get("pretrained_config", {}).get("architecture"),
        "engine_kind": envelope.engine_kind,
        "engine_version": envelope.engine_version,
        "compute_capability": envelope.compute_capability,
        "build_id": envelope.build_id,
        "built_by": envelope.built_by,
        "world_size": envelope.world_size,
    }
    return {name: str(value) for name, value in told.items() if value not in (None, "")}
