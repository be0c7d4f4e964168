"""Where in a transformers model's layers the stream is to be seen: found by the names of converted weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from trtllm_ext.checkpoint.convert.plan import Plan
from trtllm_ext.checkpoint.weights import feed_forward_norm_names
from trtllm_ext.errors import CheckpointError

Array = np.ndarray[Any, Any]

_LAYER = "transformer.layers.0"
# Sums of a few float32 numbers.
_SAME = 1e-6


@dataclass(frozen=True)
class LayerHooks:
    """How attention's contribution follows from what modules of a layer are given and give.

    Of a layer x -> y: where `norm` is there, what it is given less x, since it reads the stream that attention has
    written to; else where `reads_stream`, what `mlp` is given less x; else y less `scale` times what `mlp` gives, less
    x, which holds for a plain sum one after the other and for attention and feed-forward side by side.
    norm, mlp: paths of modules within a layer. num_layers: of the stack.
    """

    model_dir: str
    num_layers: int
    hidden_size: int
    norm: str | None
    mlp: str
    reads_stream: bool
    scale: float

    def attach(self, model: Any) -> Watched:
        """Begin to watch. Raises CheckpointError where the modules are not found."""
        watched = Watched(self, _layers_of(model, self), tables_of(model, self.hidden_size))
        watched.attach()
        return watched


def check_is_stack(model_dir: str, config: Mapping[str, Any], plan: Plan) -> None:
    """Raise CheckpointError for a model of which no stack is made that takes attention from outside, naming why."""
    if plan.config.contract.embedding is not None:
        raise CheckpointError(
            f"{model_dir} is converted as a whole encoder, attention included: nothing has to be captured. Convert it, "
            "and give `stream decompose` its --checkpoint_dir and --sentences."
        )
    if config.get("is_encoder_decoder"):
        raise CheckpointError(
            f"{model_dir} has an encoder and a decoder, of which the latter reads the former beside its stream; "
            "capturing is available for models of one stack."
        )
    if not isinstance(config.get("vocab_size"), int):
        raise CheckpointError(
            f"{model_dir} has no vocabulary: capturing takes token ids, and its input is something else."
        )


def hooks_of(model_dir: str, plan: Plan) -> LayerHooks:
    """From a planned conversion with attention_input. Raises CheckpointError for layers that cannot be watched so."""
    residual = plan.config.contract.feed_forward.residual
    name = feed_forward_norm_names(residual)[0]
    norm = None
    if residual.placement in ("pre", "sandwich") and residual.parallel == "none":
        norm = _path(plan, f"{_LAYER}.{name}.weight")
    mlp = _path(plan, f"{_LAYER}.mlp.proj.weight")
    assert mlp is not None
    is_plain = residual.placement in ("pre", "none") and residual.gate == "none"
    if norm is None and residual.placement != "branch" and not is_plain:
        raise CheckpointError(
            f"{model_dir} has a norm without weights on both sides of its feed-forward, or a gate: what attention adds "
            "cannot be told from outside."
        )
    return LayerHooks(
        model_dir,
        plan.config.num_hidden_layers,
        plan.config.hidden_size,
        norm,
        mlp.partition(".")[0],
        residual.placement == "branch",
        residual.scale,
    )


class Watched:
    """A model's layers with hooks on them. Between `begin` and `taken` one text runs."""

    def __init__(self, hooks: LayerHooks, layers: list[Any], tables: Mapping[str, Any]) -> None:
        self._hooks, self._layers, self._tables = hooks, layers, tables
        self._seen: list[dict[str, Array]] = []
        self._rows: dict[str, Array] = {}

    def begin(self) -> None:
        self._seen, self._rows = [{} for _ in self._layers], {}

    def attach(self) -> None:
        for name, table in self._tables.items():
            table.register_forward_hook(self._looked_up(name))
        for number, layer in enumerate(self._layers):
            layer.register_forward_pre_hook(self._given(number, "x"), with_kwargs=True)
            layer.register_forward_hook(self._gave(number, "y"))
            if self._hooks.norm is not None:
                self._watch_input(layer, self._hooks.norm, number)
            elif self._hooks.reads_stream:
                self._watch_input(layer, self._hooks.mlp, number)
            else:
                layer.get_submodule(self._hooks.mlp).register_forward_hook(self._gave(number, "mlp"))

    def _watch_input(self, layer: Any, path: str, number: int) -> None:
        layer.get_submodule(path).register_forward_pre_hook(self._given(number, "middle"), with_kwargs=True)

    def tables(self) -> dict[str, Array]:
        """The rows of each table of embeddings, where they add up to the stream before the first layer."""
        x = self._seen[0]["x"]
        rows = {
            name: np.broadcast_to(value, x.shape)
            for name, value in self._rows.items()
            if len(value) in (1, len(x))
        }
        away = np.abs(sum(rows.values()) - x.astype(np.float64)).max() if rows else np.inf
        return rows if away <= _SAME * np.abs(x).max() else {}

    def taken(self) -> dict[str, Array]:
        """hidden_states, attention_output and final of what has run."""
        added = []
        for seen in self._seen:
            x = seen["x"].astype(np.float64)
            middle = (
                seen["middle"]
                if "middle" in seen
                else seen["y"] - self._hooks.scale * seen["mlp"].astype(np.float64)
            )
            added.append((middle - x).astype(np.float32))
        return {
            "hidden_states": self._seen[0]["x"],
            "attention_output": np.stack(added),
            "final": self._seen[-1]["y"],
        }

    def _given(self, number: int, name: str) -> Any:
        def hook(module: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
            value = (
                arguments[0]
                if arguments
                else options.get("hidden_states", next(iter(options.values()), None))
            )
            self._seen[number].setdefault(name, _rows(value))

        return hook

    def _looked_up(self, name: str) -> Any:
        def hook(module: Any, arguments: tuple[Any, ...], output: Any) -> None:
            self._rows[name] = _rows(output)

        return hook

    def _gave(self, number: int, name: str) -> Any:
        def hook(module: Any, arguments: tuple[Any, ...], output: Any) -> None:
            self._seen[number][name] = _rows(output[0] if isinstance(output, tuple) else output)

        return hook


def tables_of(model: Any, hidden_size: int) -> dict[str, Any]:
    """Tables of embeddings as wide as the stream, by their paths."""
    return {
        name: module
        for name, module in model.named_modules()
        if getattr(module, "embedding_dim", None) == hidden_size
    }


def _rows(value: Any) -> Array:
    array: Array = value.detach().float().numpy()
    return array.reshape(-1, array.shape[-1]).copy()


def _path(plan: Plan, name: str) -> str | None:
    """Where the source has a weight within its first layer, without '.weight'; None where our model has none."""
    if name not in plan.parts:
        return None
    source = plan.parts[name][0].source
    found = re.search(r"\.\d+\.(.+?)(?:\.weight)?$", source)
    if found is None:
        raise CheckpointError(f"{name} is made of {source}, which names no layer.")
    return found[1]


def _layers_of(model: Any, hooks: LayerHooks) -> list[Any]:
    """The one list of as many layers that have these modules."""
    wanted = [hooks.mlp if hooks.norm is None else hooks.norm]
    found = []
    for name, module in model.named_modules():
        if type(module).__name__ != "ModuleList" or len(module) != hooks.num_layers:
            continue
        inside = {path for path, _ in module[0].named_modules()}
        if all(path in inside for path in wanted):
            found.append((name, list(module)))
    if len(found) != 1:
        names = ", ".join(name for name, _ in found) or "none"
        raise CheckpointError(
            f"{hooks.model_dir}: expected one list of {hooks.num_layers} layers with {wanted[0]} in "
            f"transformers' model, found {names}. This version of transformers names its layers otherwise."
        )
    return found[0][1]
