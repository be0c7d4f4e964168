"""Where a lens comes from: a Hugging Face folder, or an .npz file of its matrix and norm."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from trtllm_ext.analysis.decomposition.lens import Lens
from trtllm_ext.analysis.stream_map import read_stream_map
from trtllm_ext.checkpoint import NormContract
from trtllm_ext.errors import CheckpointError, InputError
from trtllm_ext.suggest import nearest

Array = np.ndarray[Any, Any]

_NAMES = ("weight", "bias", "norm_weight", "norm_bias", "norm_kind", "norm_eps", "scale")
_KINDS = ("layer_norm", "rms_norm")


def lens_of_model(model_dir: str) -> Lens:
    """The final norm and the unembedding of a Hugging Face folder; nothing of the matrix is read yet.

    Raises CheckpointError for a folder that is none, and for a model without an unembedding.
    """
    found = read_stream_map(model_dir)
    head = next((part for part in found.parts if part.kind == "head"), None)
    if head is None or not head.readers:
        reason = f" ({'; '.join(found.missing)})" if found.missing else ""
        raise CheckpointError(
            f"{model_dir} has no unembedding that reads the stream{reason}: it is no language model with a head. Give "
            "one that is, or an .npz file with --lens."
        )
    if head.obstacle:
        raise CheckpointError(f"the head of {model_dir} is no lens: {head.obstacle}.")
    reader = head.readers[0]
    return Lens(
        source=str(model_dir),
        vocab_size=reader.matrix.shape[0],
        hidden_size=reader.matrix.shape[1],
        load=reader.matrix.load,
        norm=reader.norm,
        gain=_wide(reader.gain),
        shift=_wide(reader.shift),
        bias=_wide(reader.bias),
        scale=reader.scale,
        remarks=head.remarks,
    )


def lens_of_arrays(path: str, arrays: Mapping[str, Array]) -> Lens:
    """From `weight` [vocab, hidden] and, where there are, `bias` [vocab], `norm_weight`, `norm_bias` [hidden],
    `norm_kind` ('layer_norm' or 'rms_norm'), `norm_eps` and `scale`.

    norm_weight is as it is multiplied, an offset added already. Raises InputError for names, shapes and values that do
    not fit.
    """
    for name in arrays:
        if name not in _NAMES:
            raise InputError(f"{path} has an array {name!r}. {nearest(name, _NAMES)}")
    weight = arrays.get("weight")
    if weight is None or weight.ndim != 2 or not weight.size:
        raise InputError(f"{path} needs `weight`, the unembedding [vocab, hidden].")
    vocab, hidden = weight.shape
    for name, size in (("bias", vocab), ("norm_weight", hidden), ("norm_bias", hidden)):
        if name in arrays and arrays[name].shape != (size,):
            raise InputError(f"{path}: {name} has shape {arrays[name].shape}, expected ({size},).")
    for name in ("norm_kind", "norm_eps", "scale"):
        if name in arrays and arrays[name].ndim:
            raise InputError(f"{path}: {name} has shape {arrays[name].shape}, expected one value, ().")
    for name, value in arrays.items():
        if name != "norm_kind" and (value.dtype.kind not in "fiu" or not np.isfinite(value).all()):
            raise InputError(
                f"{path}: {name} is {value.dtype}, or holds NaN or infinity; expected finite numbers."
            )
    return Lens(
        source=str(Path(path)),
        vocab_size=vocab,
        hidden_size=hidden,
        load=partial(np.asarray, weight),
        norm=_norm(path, arrays),
        gain=_float64(arrays.get("norm_weight")),
        shift=_float64(arrays.get("norm_bias")),
        bias=_float64(arrays.get("bias")),
        scale=float(arrays.get("scale", 1.0)),
    )


def _norm(path: str, arrays: Mapping[str, Array]) -> NormContract | None:
    if "norm_kind" not in arrays:
        if others := [name for name in arrays if name.startswith("norm_")]:
            raise InputError(
                f"{path} has {', '.join(others)} without norm_kind; expected one of {', '.join(_KINDS)}."
            )
        return None
    kind = str(arrays["norm_kind"])
    if kind not in _KINDS:
        raise InputError(f"{path}: norm_kind {kind!r} is not known. {nearest(kind, _KINDS)}")
    if "norm_eps" not in arrays:
        raise InputError(f"{path} has a norm without norm_eps, what is added to its variance; give it.")
    return NormContract(
        kind="layer_norm" if kind == "layer_norm" else "rms_norm",
        eps=float(arrays["norm_eps"]),
        bias="norm_bias" in arrays,
        weight="norm_weight" in arrays,
    )


def _wide(vector: Any) -> Array | None:
    return None if vector is None else np.asarray(vector(), np.float64)


def _float64(values: Array | None) -> Array | None:
    return None if values is None else values.astype(np.float64)
