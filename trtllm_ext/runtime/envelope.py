"""The envelope: what an engine file is, readable before the file is.

`rank{N}.envelope.json` stands beside `rank{N}.engine`. It is checked first, so that a wrong library, a wrong
device, a swapped or a truncated file is met by a sentence and never by a crash inside an engine.
"""

import hashlib
import re
import zlib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

from trtllm_ext.errors import EngineError
from trtllm_ext.runtime.json_files import canonical_digest, read_json_object, to_json

FORMAT = "trtllm_ext-envelope"
FORMAT_VERSION = 2
ENGINE_KINDS = ("embedded", "tensorrt")
# Names of trt.HardwareCompatibilityLevel, in lower case.
HARDWARE_COMPATIBILITY_LEVELS = ("none", "ampere_plus", "same_compute_capability")
# What version 1 did not say, and meant.
_ABSENT_IN_1: dict[str, Any] = {
    "version_compatible": False,
    "hardware_compatibility_level": "none",
    "is_stripped": False,
    "plugins": [],
}
_AGAIN = "Copy it again, or build the engine again (`trtllm-ext build --from-engine` does so as it was)."
_DAMAGED = f"The file is damaged. {_AGAIN}"
_HEAD_TAIL = 64 << 10
_CHUNK = 4 << 20


def envelope_name(rank: int) -> str:
    """File name of a rank's envelope."""
    return f"rank{rank}.envelope.json"


def engine_name(rank: int) -> str:
    """File name of a rank's engine, as TensorRT-LLM has it."""
    return f"rank{rank}.engine"


@dataclass(frozen=True, kw_only=True)
class TensorSummary:
    """One input or output.

    profiles: (min, opt, max) shapes of an input, one triple a profile.
    dim_names: names of an input's dimensions; those of the same name must have the same size. "" is nameless.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    profiles: tuple[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]], ...] = ()
    dim_names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PluginSummary:
    """A plugin that an engine's layers run on: its creator, as the registry knows it, and where that came from.

    library: base name of the shared library that the creator came from; library_sha256: digest of that file. Both are
    "" for a creator that Python code registered, or that TensorRT brings itself.
    """

    name: str
    version: str
    namespace: str = ""
    library: str = ""
    library_sha256: str = ""

    def __str__(self) -> str:
        where = f" in namespace {self.namespace!r}" if self.namespace else ""
        return f"{self.name!r} version {self.version!r}{where}"


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """What is known of one rank's engine file without opening it.

    engine_kind: "embedded" or "tensorrt".
    engine_version: version of the library that built it.
    compute_capability: "cpu", or such as "9.0".
    build_id: the same for all files of one build.
    contract_sha256, config_sha256: digests of the model's exact maths and of the whole config.json.
    engine_bytes, engine_crc32: size and CRC-32 of the whole file.
    engine_ends_sha256: digest of its first and last 64 KiB, cheap enough to be checked at every load.
    version_compatible: whether other releases of the library may run it, by that library's rule.
    hardware_compatibility_level: "none", "ampere_plus" or "same_compute_capability": which devices may run it.
    is_stripped: whether its weights were left out, to be put back by a refit.
    plugins: those that its layers run on, each once.
    """

    engine_kind: str
    engine_version: str
    compute_capability: str
    build_id: str
    contract_sha256: str
    config_sha256: str
    rank: int
    world_size: int
    engine_bytes: int
    engine_crc32: int
    engine_ends_sha256: str
    built_by: str
    inputs: tuple[TensorSummary, ...]
    outputs: tuple[TensorSummary, ...]
    version_compatible: bool = False
    hardware_compatibility_level: str = "none"
    is_stripped: bool = False
    plugins: tuple[PluginSummary, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: format and version first, last a digest of all of it."""
        values = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(self)}
        return {**values, "sha256": canonical_digest(values)}

    def write(self, path: Path) -> None:
        """Write the JSON form to `path`."""
        path.write_text(to_json(self.to_dict()), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Envelope":
        """Read and check an envelope; EngineError says what is wrong with it."""
        return cls.from_dict(read_json_object(path, EngineError, way_out=_DAMAGED), str(path))

    @classmethod
    def from_dict(cls, value: dict[str, Any], name: str = "envelope") -> "Envelope":
        """The reverse of `to_dict`; every field is checked."""
        if value.get("format") != FORMAT:
            raise EngineError(
                f"{name} is not an engine's envelope: its format is {value.get('format')!r}, not {FORMAT!r}."
            )
        version = value.get("format_version")
        if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
            raise EngineError(
                f"{name} has format version {version!r}; this trtllm_ext reads versions 1 to {FORMAT_VERSION}. "
                f"Build the engine again with the version of trtllm_ext that runs it (`trtllm-ext build "
                f"--from-engine` keeps the settings)."
            )
        rest = {key: item for key, item in value.items() if key != "sha256"}
        try:
            digest = canonical_digest(rest)
        except (ValueError, RecursionError) as problem:
            raise EngineError(f"{name} holds what no envelope does: {problem}.") from problem
        if value.get("sha256") != digest:
            raise EngineError(f"{name} does not match its own sha256: it is damaged or was edited. {_AGAIN}")
        return _parse(cls, _as_version_2(rest, name) if version == 1 else rest, name)


def ends_digest(file: BinaryIO, size: int) -> str:
    """sha256 of the first and the last 64 KiB of a file of `size` bytes (of all of it when shorter)."""
    file.seek(0)
    digest = hashlib.sha256(file.read(_HEAD_TAIL))
    file.seek(max(min(size, _HEAD_TAIL), size - _HEAD_TAIL))
    digest.update(file.read(_HEAD_TAIL))
    return digest.hexdigest()


def crc32_of(file: BinaryIO) -> int:
    """CRC-32 of a whole file, read in pieces of 4 MiB."""
    file.seek(0)
    crc = 0
    while piece := file.read(_CHUNK):
        crc = zlib.crc32(piece, crc)
    return crc


def _as_version_2(value: dict[str, Any], name: str) -> dict[str, Any]:
    if early := sorted(set(value) & set(_ABSENT_IN_1)):
        raise EngineError(
            f"{name} has the key {early[0]!r}, which format version 1 has not; it was edited. {_AGAIN}"
        )
    return {**value, **_ABSENT_IN_1}


def _parse(cls: type[Envelope], value: dict[str, Any], name: str) -> Envelope:
    known = {field.name for field in fields(cls)}
    given = set(value) - {"format", "format_version"}
    if missing := sorted(known - given):
        raise EngineError(f"{name} lacks {missing[0]!r}; the file is damaged or was edited. {_AGAIN}")
    if unknown := sorted(given - known):
        raise EngineError(
            f"{name} has the unknown key {unknown[0]!r}; the file is damaged or was edited. {_AGAIN}"
        )

    def fail(key: str, expected: str) -> EngineError:
        return EngineError(f"{name}: {key} is {value[key]!r:.80}, expected {expected}.")

    for key in ("engine_version", "compute_capability", "built_by"):
        if not isinstance(value[key], str) or not value[key]:
            raise fail(key, "a non-empty text")
    for key in ("contract_sha256", "config_sha256", "engine_ends_sha256"):
        if not isinstance(value[key], str) or not re.fullmatch("[0-9a-f]{64}", value[key]):
            raise fail(key, "64 hexadecimal digits")
    if not isinstance(value["build_id"], str) or not re.fullmatch("[0-9a-f]{32}", value["build_id"]):
        raise fail("build_id", "32 hexadecimal digits")
    if value["engine_kind"] not in ENGINE_KINDS:
        raise fail("engine_kind", f"one of {', '.join(ENGINE_KINDS)}")
    for key in ("rank", "world_size", "engine_bytes", "engine_crc32"):
        if type(value[key]) is not int or value[key] < 0:
            raise fail(key, "a number of at least 0")
    for key in ("version_compatible", "is_stripped"):
        if type(value[key]) is not bool:
            raise fail(key, "true or false")
    if value["hardware_compatibility_level"] not in HARDWARE_COMPATIBILITY_LEVELS:
        raise fail("hardware_compatibility_level", f"one of {', '.join(HARDWARE_COMPATIBILITY_LEVELS)}")
    if not value["rank"] < value["world_size"]:
        raise fail("rank", f"less than world_size={value['world_size']}")
    tensors = {key: _tensors(value[key], f"{name}: {key}") for key in ("inputs", "outputs")}
    plugins = _plugins(value["plugins"], f"{name}: plugins")
    return cls(**{**{key: value[key] for key in known}, **tensors, "plugins": plugins})


def _plugins(value: Any, where: str) -> tuple[PluginSummary, ...]:
    if not isinstance(value, list):
        raise EngineError(f"{where} is {value!r:.80}, expected a list.")
    keys = {field.name for field in fields(PluginSummary)}
    for each in value:
        texts = (
            isinstance(each, dict) and set(each) == keys and all(isinstance(each[key], str) for key in keys)
        )
        if not texts or not re.fullmatch("([0-9a-f]{64})?", each["library_sha256"]):
            raise EngineError(
                f"{where} holds {each!r:.120}, expected the texts name, version, namespace, library and library_sha256."
            )
    return tuple(PluginSummary(**each) for each in value)


def _tensors(value: Any, where: str) -> tuple[TensorSummary, ...]:
    if not isinstance(value, list):
        raise EngineError(f"{where} is {value!r:.80}, expected a list.")
    return tuple(_tensor(item, where) for item in value)


def _tensor(value: Any, where: str) -> TensorSummary:
    try:
        if set(value) != {"name", "dtype", "shape", "profiles", "dim_names"}:
            raise ValueError("keys")
        if not isinstance(value["name"], str) or not isinstance(value["dtype"], str):
            raise ValueError("texts")
        shape = _dims(value["shape"], -1)
        profiles = []
        for item in value["profiles"]:
            least, opt, most = (_dims(dims, 0) for dims in item)
            if not len(least) == len(opt) == len(most) == len(shape):
                raise ValueError("ranks")
            profiles.append((least, opt, most))
        dim_names = tuple(value["dim_names"])
        if not all(isinstance(name, str) for name in dim_names) or len(dim_names) not in (0, len(shape)):
            raise ValueError("dim names")
    except (TypeError, ValueError, KeyError):
        raise EngineError(
            f"{where} holds {value!r:.120}, expected name, dtype, shape, profiles and dim_names."
        ) from None
    return TensorSummary(
        name=value["name"], dtype=value["dtype"], shape=shape, profiles=tuple(profiles), dim_names=dim_names
    )


def _dims(value: Any, least: int) -> tuple[int, ...]:
    if not isinstance(value, list) or any(type(dim) is not int or dim < least for dim in value):
        raise ValueError("dims")
    return tuple(value)
