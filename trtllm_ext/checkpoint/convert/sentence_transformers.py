"""What a sentence-transformers folder lays down beside the model: its pooling and its token limit."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from trtllm_ext.checkpoint.contract import PoolingContract
from trtllm_ext.checkpoint.convert.source import check_source_fields
from trtllm_ext.errors import CheckpointError
from trtllm_ext.runtime.json_files import parse_json_object, read_json_object

MODULES_FILE = "modules.json"
TRANSFORMER_FILE = "sentence_bert_config.json"
TOKENIZER_FILE = "tokenizer_config.json"

_MODES: dict[str, Literal["mean", "cls"]] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
}
_REFUSED_MODES = (
    "pooling_mode_max_tokens",
    "pooling_mode_mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens",
    "pooling_mode_lasttoken",
)


def read_pooling(model_dir: Path, hidden_size: int, positions: int) -> PoolingContract | None:
    """The pooling and token limit of the folder, or None where it has no modules.json.

    positions: the model's max_position_embeddings.
    Raises CheckpointError for a module, a pooling mode or a setting that is not supported, by its name.
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
    return PoolingContract(
        kind=_pooling_kind(model_dir / folder / "config.json", hidden_size),
        normalize="Normalize" in kinds,
        max_seq_length=_max_seq_length(model_dir, positions),
    )


def _read_modules(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from None
    modules = parse_json_object('{"modules": ' + text + "}", str(path), CheckpointError)["modules"]
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise CheckpointError(f"{path} does not hold a list of modules.")
    return modules


def _max_seq_length(model_dir: Path, positions: int) -> int | None:
    """As sentence-transformers has it: its own setting, else the tokenizer's, never more than the positions.

    The other settings of the two files say how to load the model, or are in tokenizer.json too.
    """
    path = model_dir / TRANSFORMER_FILE
    data = read_json_object(path, CheckpointError) if path.exists() else {}
    if data.get("do_lower_case", False) is not False:
        raise CheckpointError(
            f"{path}: do_lower_case={data['do_lower_case']!r} is not supported; expected false: only what "
            "tokenizer.json does to a text is done to it."
        )
    name = "max_seq_length"
    if data.get(name) is None:
        path, name = model_dir / TOKENIZER_FILE, "model_max_length"
        data = read_json_object(path, CheckpointError) if path.exists() else {}
    limit = data.get(name)
    if limit is None:
        return None
    if type(limit) is not int or limit < 1:
        raise CheckpointError(f"{path}: {name}={limit!r} is not a positive integer.")
    return min(limit, positions)


def _pooling_kind(path: Path, hidden_size: int) -> Literal["mean", "cls"]:
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
    return _MODES[chosen[0]]
