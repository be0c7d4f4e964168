"""config.pbtxt: Triton's `ModelConfig` message in protobuf's text format, as far as a model here needs it.

The fields are those of model_config.proto in triton-inference-server/common; what they mean is told in the server's
docs/user_guide/model_configuration.md. Tests read the text back with protobuf's own parser.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trtllm_ext.errors import BuildError
from trtllm_ext.runtime.envelope import TensorSummary

CONFIG_NAME = "config.pbtxt"
# The most that a field of type int32 holds.
MOST_ROWS = 2**31 - 1

_TYPES = {
    "float32": "TYPE_FP32",
    "float16": "TYPE_FP16",
    "bfloat16": "TYPE_BF16",
    "int64": "TYPE_INT64",
    "int32": "TYPE_INT32",
    "int8": "TYPE_INT8",
    "uint8": "TYPE_UINT8",
    "bool": "TYPE_BOOL",
}
_FIRST_LINES = """\
# Written by trtllm-ext export --triton. Where it was edited, the next export asks before it replaces it.
# sha256 of the lines below: {rest}
# sha256 of what all versions share: {shared}
"""
_FIRST_LINES_THERE = re.compile(
    re.escape(_FIRST_LINES)
    .replace(re.escape("{rest}"), "([0-9a-f]{64})")
    .replace(re.escape("{shared}"), "([0-9a-f]{64})")
)


@dataclass(frozen=True, kw_only=True)
class TritonConfig:
    """What Triton is told of a model.

    backend: "tensorrt" or "onnxruntime". file: the model's, in the folder of a version.
    max_batch_size: most rows of a batch of joined requests; 0 where requests are run one by one. Above 0 the first
        dimension of every input and output is the batch, and does not stand in `dims`.
    inputs, outputs: with the first dimension, of full shape.
    on_gpu: where instances run. profiles: numbers of TensorRT's optimization profiles that they may use.
    parameters: texts by name, which Triton gives to whoever asks for the model's config.
    comments: for people, sentences.
    """

    name: str
    backend: str
    file: str
    max_batch_size: int
    inputs: Sequence[TensorSummary]
    outputs: Sequence[TensorSummary]
    on_gpu: bool
    profiles: Sequence[int] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)
    comments: Sequence[str] = ()

    def text(self) -> str:
        """The file's content. Raises BuildError for a tensor whose type Triton does not have."""
        shared = "\n".join(self._shared())
        rest = "\n".join(
            [*(f"# {' '.join(line.splitlines())}" for line in self.comments), shared, *self._parameters(), ""]
        )
        return _FIRST_LINES.format(rest=_digest(rest), shared=_digest(shared)) + rest

    def _shared(self) -> Iterable[str]:
        yield f"name: {quoted(self.name)}"
        yield f"backend: {quoted(self.backend)}"
        yield f"default_model_filename: {quoted(self.file)}"
        yield f"max_batch_size: {self.max_batch_size}"
        for kind, tensors in (("input", self.inputs), ("output", self.outputs)):
            for tensor in tensors:
                dims = tensor.shape[1 if self.max_batch_size else 0 :]
                yield f"{kind} {{"
                yield f"  name: {quoted(tensor.name)}"
                yield f"  data_type: {_type_of(tensor, kind)}"
                yield f"  dims: [ {', '.join(map(str, dims))} ]"
                yield "}"
        if self.max_batch_size:
            yield "dynamic_batching { }"
        profiles = "".join(f" profile: {quoted(str(number))}" for number in self.profiles)
        yield f"instance_group {{ count: 1 kind: {'KIND_GPU' if self.on_gpu else 'KIND_CPU'}{profiles} }}"
        yield "version_policy { latest { num_versions: 1 } }"

    def _parameters(self) -> Iterable[str]:
        for key, value in sorted(self.parameters.items()):
            yield f"parameters {{ key: {quoted(key)} value {{ string_value: {quoted(value)} }} }}"


@dataclass(frozen=True)
class Existing:
    """A config.pbtxt that is there. is_ours: as `TritonConfig.text` wrote it. shared_sha256: "" of any other."""

    is_ours: bool
    shared_sha256: str = ""

    @classmethod
    def read(cls, path: Path) -> "Existing | None":
        """None where there is no file. Raises BuildError for one that cannot be read."""
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as problem:
            raise BuildError(f"{path} cannot be read as a text: {problem}.") from problem
        first = _FIRST_LINES_THERE.match(text)
        if first is None or _digest(text[first.end() :]) != first[1]:
            return cls(False)
        return cls(True, first[2])

    def shares(self, text: str) -> bool:
        """Whether `text`, of `TritonConfig`, says the same of all versions."""
        first = _FIRST_LINES_THERE.match(text)
        return first is not None and first[2] == self.shared_sha256


def quoted(text: str) -> str:
    """A string of protobuf's text format."""
    quote = "'" if '"' in text else '"'
    inside = "".join(
        chr(byte) if 32 <= byte < 127 and chr(byte) not in (quote, "\\") else f"\\{byte:03o}"
        for byte in text.encode("utf-8")
    )
    return quote + inside + quote


def _type_of(tensor: TensorSummary, kind: str) -> str:
    if tensor.dtype not in _TYPES:
        raise BuildError(
            f"{kind} {tensor.name!r} is {tensor.dtype}, and Triton's models have inputs and outputs of "
            f"{', '.join(_TYPES)} alone. Leave it out (--taps of the build), or cast it to one of these inside of the "
            f"network."
        )
    return _TYPES[tensor.dtype]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
