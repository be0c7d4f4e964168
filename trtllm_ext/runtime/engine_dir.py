"""The engine directory: config.json, and for each rank an envelope and an engine.

config.json            version, build_id, pretrained_config, build_config
rank0.envelope.json    what rank0.engine is (see envelope.py)
rank0.engine           the engine itself
self_test.npz          of several ranks: a known input and output (see self_test.py)
tokenizer.json         optional, copied from the checkpoint
rotation.safetensors   optional, copied from the checkpoint: what leads into a rotated stream and back
"""

import mmap
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtllm_ext.errors import BuildError, EngineError
from trtllm_ext.runtime import host_check
from trtllm_ext.runtime.atomic import Kind
from trtllm_ext.runtime.envelope import (
    Envelope,
    crc32_of,
    ends_digest,
    engine_name,
    envelope_name,
)
from trtllm_ext.runtime.json_files import canonical_digest, read_json_object
from trtllm_ext.runtime.tensorrt_llm_dir import is_tensorrt_llms, made_up_envelope

CONFIG_NAME = "config.json"
# The way out where config.json cannot be what a build starts from.
_BY_ITS_FLAGS = "Copy the whole directory again, or build again, giving the flags of the build."
_CONFIG_KEYS = {"version": str, "build_id": str, "pretrained_config": dict, "build_config": dict}


def _lacking(config: dict[str, Any]) -> str | None:
    """The first key that an engine's config.json has and `config` has not."""
    return next((key for key, kind in _CONFIG_KEYS.items() if not isinstance(config.get(key), kind)), None)


def _not_an_engine(directory: Path, config: dict[str, Any], key: str) -> EngineError:
    """What `directory` is, when its config.json lacks `key`: one step or two of the way to an engine."""
    build = "trtllm-ext build --checkpoint_dir"
    if isinstance(config.get("architecture"), str):
        return EngineError(
            f"{directory} is a checkpoint; expected an engine directory. Build one first: {build} {directory} "
            f"--output_dir ENGINE."
        )
    if isinstance(config.get("architectures"), list):
        return EngineError(
            f"{directory} is a trained model as it was published; expected an engine directory. Make a checkpoint "
            f"first, then an engine: trtllm-ext convert --model_dir {directory} --output_dir CHECKPOINT, then {build} "
            f"CHECKPOINT --output_dir ENGINE."
        )
    return EngineError(
        f"{directory / CONFIG_NAME} lacks {key!r} or holds something else than a {_CONFIG_KEYS[key].__name__} there; "
        f"it is not the config.json of an engine directory of trtllm_ext. Is {directory} a checkpoint?"
    )


# What a build writes, and the next one may replace.
ENGINE_DIRECTORY = Kind(
    what="engine",
    files=re.compile(
        r"config\.json|rank\d+\.(engine|envelope\.json)|self_test\.npz|tokenizer\.json|rotation\.safetensors"
    ),
    is_config=lambda config: _lacking(config) is None,
    error=BuildError,
)


@dataclass(frozen=True)
class EngineDir:
    """An engine directory whose descriptions have been read and checked; the engine file is not open yet.

    has_envelope: False for a directory of TensorRT-LLM's, whose envelope is made up of what its files tell.
    """

    path: Path
    rank: int
    config: dict[str, Any]
    envelope: Envelope
    has_envelope: bool = True

    @classmethod
    def read(cls, path: str | os.PathLike[str], rank: int = 0) -> "EngineDir":
        """Read config.json and a rank's envelope, which one of TensorRT-LLM's directories does not have.

        Raises EngineError when a file is missing, damaged, or belongs to another build, and when the contract
        in config.json is not the one the engine was built for.
        """
        directory = Path(path)
        config_path = directory / CONFIG_NAME
        config = read_config(directory)
        if is_tensorrt_llms(directory, config, rank):
            return cls(directory, rank, config, made_up_envelope(directory, config, rank), has_envelope=False)
        if key := _lacking(config):
            raise _not_an_engine(directory, config, key)
        envelope_path = directory / envelope_name(rank)
        if not envelope_path.is_file():
            raise _missing_rank(directory, rank)
        envelope = Envelope.read(envelope_path)
        if envelope.rank != rank:
            raise EngineError(
                f"{envelope_path} describes rank {envelope.rank}; a file was renamed. "
                f"{_anew('the whole directory', directory)}"
            )
        if envelope.build_id != config["build_id"]:
            raise EngineError(
                f"{directory} mixes two builds: {CONFIG_NAME} has build id {config['build_id']}, "
                f"{envelope_path.name} has {envelope.build_id}. {_BY_ITS_FLAGS}"
            )
        digest = canonical_digest(config["pretrained_config"].get("contract"))
        if digest != envelope.contract_sha256:
            raise EngineError(
                f"the contract in {config_path} is not the one that {engine_name(rank)} was built for (sha256 "
                f"{digest[:12]}..., built for {envelope.contract_sha256[:12]}...); the file was edited. {_BY_ITS_FLAGS}"
            )
        if canonical_digest(config) != envelope.config_sha256:
            raise EngineError(
                f"{config_path} is not the file that the build wrote: it is damaged or was edited. {_BY_ITS_FLAGS}"
            )
        return cls(directory, rank, config, envelope)

    @property
    def engine_path(self) -> Path:
        """Where the engine file is."""
        return self.path / engine_name(self.rank)

    @property
    def tokenizer_path(self) -> Path | None:
        """The tokenizer that the build copied from the checkpoint, when there was one."""
        path = self.path / "tokenizer.json"
        return path if path.is_file() else None

    def check_host(self) -> None:
        """Raise EngineError unless this process can run this engine: its kind, library, device and plugins.

        Nothing of the engine file is read for that; each sentence tells the way out.
        """
        host_check.check_host(self.envelope, str(self.engine_path), str(self.path))

    def check_can_run(self) -> None:
        """As `check_host`, and that the engine has its weights: a stripped one only waits for a refit."""
        self.check_host()
        if self.envelope.is_stripped:
            raise EngineError(
                f"{self.engine_path} holds no weights: it was built with use_strip_plan. Put them in with "
                f"{host_check.filling(str(self.path))}, and load what that writes."
            )

    def map_engine(self) -> mmap.mmap:
        """The engine file mapped read-only, after its size and ends have been compared with the envelope.

        A TensorRT engine is read through once for its CRC-32 here; an embedded plan has checksums of its own,
        which its runtime checks with every thread.
        """
        path = self.engine_path
        try:
            with path.open("rb") as file:
                size = path.stat().st_size
                if size != self.envelope.engine_bytes:
                    state = (
                        "truncated" if size < self.envelope.engine_bytes else "not the file that was built"
                    )
                    raise EngineError(
                        f"{path} has {size} bytes, but {self.envelope.engine_bytes} were written: it is "
                        f"{state}. {_anew('it', self.path)}"
                    )
                if ends_digest(file, size) != self.envelope.engine_ends_sha256:
                    raise EngineError(
                        f"{path} is not the file that {envelope_name(self.rank)} describes: it is damaged or "
                        f"comes from another build. {_anew('it', self.path)}"
                    )
                has_sum = self.has_envelope and self.envelope.engine_kind == "tensorrt"
                if has_sum and crc32_of(file) != self.envelope.engine_crc32:
                    raise EngineError(
                        f"{path} is damaged: its checksum does not match. {_anew('it', self.path)}"
                    )
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            raise _incomplete(self.path, path.name) from None
        except (OSError, ValueError) as problem:
            raise EngineError(f"{path} cannot be read: {problem}.") from problem


def read_config(directory: Path) -> dict[str, Any]:
    """An engine directory's config.json as it stands, compared with nothing. EngineError when there is none."""
    if not directory.is_dir():
        what = "is a file" if directory.exists() else "does not exist"
        raise EngineError(
            f"{directory} {what}; expected an engine directory, as `trtllm-ext build --output_dir` writes it."
        )
    if not (directory / CONFIG_NAME).is_file():
        raise _incomplete(directory, CONFIG_NAME)
    return read_json_object(directory / CONFIG_NAME, EngineError, way_out=_BY_ITS_FLAGS)


def _anew(what: str, directory: Path) -> str:
    """The way out where config.json is whole, and so a build can start from it."""
    return f"Copy {what} again, or {host_check.rebuilding(str(directory))}."


def _incomplete(directory: Path, name: str) -> EngineError:
    found = ", ".join(sorted(entry.name for entry in directory.iterdir())[:8]) or "nothing"
    if name == CONFIG_NAME:
        again = f"Give the --output_dir of `trtllm-ext build`. {_BY_ITS_FLAGS}"
    else:
        again = _anew("the whole directory", directory)
    return EngineError(
        f"{directory} has no {name} (found: {found}); it is not a complete engine directory. {again}"
    )


def _missing_rank(directory: Path, rank: int) -> EngineError:
    others = sorted(directory.glob("rank*.envelope.json"))
    if not others or not rank:
        return _incomplete(directory, envelope_name(rank))
    try:
        size = Envelope.read(others[0]).world_size
    except EngineError:
        return _incomplete(directory, envelope_name(rank))
    if rank < size:
        return EngineError(
            f"{directory} has no {envelope_name(rank)}, though its engine was built for {size} ranks. "
            f"{_anew('the whole directory', directory)}"
        )
    return EngineError(
        f"{directory} has no {envelope_name(rank)}: it was built for {size} rank(s). Use a rank below {size}, or "
        f"build with more ranks."
    )
