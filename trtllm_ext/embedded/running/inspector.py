"""What an engine says about its layers."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trtllm_ext.embedded.enums import LayerInformationFormat
from trtllm_ext.embedded.logger import ILogger
from trtllm_ext.embedded.plan import PluginRecord
from trtllm_ext.embedded.plugins.asking import described
from trtllm_ext.embedded.surface.recorded import Recorded

if TYPE_CHECKING:
    from trtllm_ext.embedded.running.context import IExecutionContext


class EngineInspector(Recorded):
    """Prints the layers of an engine, in as much detail as the profiling verbosity of its build asked for.

    Made by `ICudaEngine.create_engine_inspector()`.
    """

    __slots__ = ("_layers", "_plugins", "_tensors", "execution_context")

    def __init__(
        self,
        layers: Sequence[Mapping[str, Any]],
        tensors: Sequence[str],
        logger: ILogger,
        plugins: Sequence[PluginRecord] = (),
    ) -> None:
        self._layers = layers
        self._plugins = {(one.name, one.version, one.namespace): _plugin(one) for one in plugins}
        self._tensors = list(tensors)
        self._report_to(logger)
        self.execution_context: IExecutionContext | None = None

    def get_layer_information(
        self, layer_index: int, format: LayerInformationFormat = LayerInformationFormat.ONELINE
    ) -> str:
        """One layer as a line of text or as JSON; an empty string, with an error in the log, if it is not there."""
        if not 0 <= layer_index < len(self._layers):
            self._report(
                f"get_layer_information: there is no layer {layer_index}; the engine tells of {len(self._layers)}."
            )
            return ""
        layer = self._layers[layer_index]
        if format == LayerInformationFormat.JSON:
            return json.dumps(_shown(layer), ensure_ascii=False)
        return _line(layer)

    def get_engine_information(self, format: LayerInformationFormat = LayerInformationFormat.ONELINE) -> str:
        """All layers, one a line, or as a JSON object with `Layers` and `Bindings`; `Plugins`, if any are needed."""
        if format == LayerInformationFormat.JSON:
            shown = {"Layers": [_shown(layer) for layer in self._layers], "Bindings": self._tensors}
            if self._plugins:
                shown["Plugins"] = list(self._plugins.values())
            return json.dumps(shown, ensure_ascii=False, indent=2)
        lines = [_line(layer) for layer in self._layers]
        lines += [f"needs {described(*plugin)}" for plugin in self._plugins]
        return "".join(f"{line}\n" for line in lines)


def _plugin(record: PluginRecord) -> Mapping[str, str]:
    return {"Name": record.name, "Version": record.version, "Namespace": record.namespace}


def _shown(layer: Mapping[str, Any]) -> Any:
    return layer["Name"] if set(layer) == {"Name"} else dict(layer)


def _line(layer: Mapping[str, Any]) -> str:
    if set(layer) == {"Name"}:
        return str(layer["Name"])
    parts = [
        f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in layer.items() if key != "Name"
    ]
    return f"{layer['Name']}, " + ", ".join(parts)
