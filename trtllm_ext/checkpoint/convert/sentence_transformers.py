"""The pooling of a sentence-transformers folder, from its modules.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trtllm_ext.checkpoint.contract import PoolingContract
from trtllm_ext.checkpoint.convert.source import check_source_fields
from trtllm_ext.errors import CheckpointError
from trtllm_ext.runtime.json_files import parse_json_object, read_json_object

MODULES_FILE = "modules.json"

_MODES = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
_REFUSED_MODES = (
    "pooling_mode_max_tokens",
    "pooling_mode_mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens",
    "pooling_mode_lasttoken",
)


def read_pooling(model_dir: Path, hidden_size: int) -> PoolingContract | None:
    """The pooling that modules.json lays down, or None where there is no such file.

    Raises CheckpointError for a module or a pooling mode that is not supported, by its name.
    """
    path = model_dir / MODULES_FILE
    if not path.exists():
        return None
    modules = _read_modules(path)
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
    for kind, module in zip(kinds, modules, strict=True):
        if kind not in ("Transformer", "Pooling", "Normalize"):
            raise CheckpointError(
                f"{path}: the module {module.get('type')!r} is not supported; supported are Transformer, Pooling "
                "and Normalize."
            )
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise CheckpointError(
            f"{path}: the modules {', '.join(kinds) or '(none)'} are not supported in this order; supported is "
            "Transformer, Pooling and then, where wanted, Normalize."
        )
    folder = modules[1].get("path")
    if not isinstance(folder, str) or Path(folder).is_absolute() or ".." in Path(folder).parts:
        raise CheckpointError(f"{path}: the path {folder!r} of the Pooling module is not a folder beside it.")
    return _pooling(model_dir / folder / "config.json", hidden_size, normalize="Normalize" in kinds)


def _read_modules(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from None
    modules = parse_json_object('{"modules": ' + text + "}", str(path), CheckpointError)["modules"]
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise CheckpointError(f"{path} does not hold a list of modules.")
    return modules


def _pooling(path: Path, hidden_size: int, *, normalize: bool) -> PoolingContract:
    data = read_json_object(path, CheckpointError)
    known = ("word_embedding_dimension", "include_prompt", *_MODES, *_REFUSED_MODES)
    check_source_fields(data, known, path, advice="A pooling of unknown form cannot be converted.")
    if data.get("word_embedding_dimension", hidden_size) != hidden_size:
        raise CheckpointError(
            f"{path}: word_embedding_dimension={data['word_embedding_dimension']!r}, but the model's hidden_size "
            f"is {hidden_size}."
        )
    chosen = [name for name in (*_MODES, *_REFUSED_MODES) if data.get(name, False) is not False]
    if len(chosen) != 1 or chosen[0] in _REFUSED_MODES:
        raise CheckpointError(
            f"{path}: pooling by {' and '.join(chosen) or 'nothing'} is not supported; supported is exactly one of "
            f"{', '.join(_MODES)}."
        )
    kind = _MODES[chosen[0]]
    return PoolingContract(kind="mean" if kind == "mean" else "cls", normalize=normalize)
