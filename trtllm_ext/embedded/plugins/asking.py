"""Calls of a plugin's code: whatever it raises or gives comes back as one error that names it."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trtllm_ext.embedded.brief import brief
from trtllm_ext.embedded.enums import PluginCapabilityType
from trtllm_ext.embedded.plugins.interfaces import (
    IPluginV3,
    IPluginV3OneBuild,
    IPluginV3OneCore,
    IPluginV3OneRuntime,
)
from trtllm_ext.errors import TrtllmExtError

_PART = {
    PluginCapabilityType.CORE: IPluginV3OneCore,
    PluginCapabilityType.BUILD: IPluginV3OneBuild,
    PluginCapabilityType.RUNTIME: IPluginV3OneRuntime,
}


class PluginError(TrtllmExtError):
    """A plugin's code raised, or gave what it must not give."""


class PluginHandle:
    """A plugin in use. Its code is called through here alone; it is told when the handle goes.

    Raises PluginError if the plugin has no core part or does not say what it is called.
    """

    def __init__(self, plugin: Any, source: str) -> None:
        """source: where the plugin comes from, for the message about one that is none."""
        self.plugin = plugin
        self._is_sound = False
        if not isinstance(plugin, IPluginV3):
            raise PluginError(f"{source} gave {plugin!r:.200}, which is no IPluginV3")
        self.label = f"plugin of class {type(plugin).__name__}"
        core = self.part(PluginCapabilityType.CORE)
        self.name, self.version, self.namespace = (
            self.text(core, attribute) for attribute in ("plugin_name", "plugin_version", "plugin_namespace")
        )
        self.label = described(self.name, self.version, self.namespace)
        self._is_sound = True

    def __del__(self) -> None:
        if self._is_sound:
            try:
                self.plugin.destroy()
            except (
                Exception
            ) as error:  # the application's code may raise anything, and nobody is left to tell
                traceback.print_exception(error)

    def part(self, kind: PluginCapabilityType) -> Any:
        """One of the parts of the plugin."""
        part = self.ask(self.plugin, "get_capability_interface", kind)
        if not isinstance(part, _PART[kind]):
            raise PluginError(
                f"{self.label}: get_capability_interface({kind}) gave {part!r:.200}, which is no "
                f"{_PART[kind].__name__}"
            )
        return part

    def ask(self, part: Any, method: str, *arguments: Any) -> Any:
        """Call a method of a part."""
        return guarded(lambda: getattr(part, method)(*arguments), f"{self.label}: {method}()")

    def text(self, part: Any, attribute: str) -> str:
        """An attribute that is text."""
        value = guarded(lambda: getattr(part, attribute), f"{self.label}: {attribute}")
        if not isinstance(value, str):
            raise PluginError(
                f"{self.label}: {attribute} is not initialized: it is {value!r:.80}, where a str belongs"
            )
        return value

    def clone(self) -> PluginHandle:
        """A clone of the plugin."""
        return self.other(self.ask(self.plugin, "clone"), "clone()")

    def other(self, plugin: Any, method: str) -> PluginHandle:
        """A clone that `method` gave; PluginError if it is none."""
        if plugin is self.plugin:
            raise PluginError(f"{self.label}: {method} gave the plugin itself, where a clone belongs")
        return PluginHandle(plugin, f"{self.label}: {method}")


def described(name: str, version: str, namespace: str) -> str:
    """A plugin in words."""
    return f"plugin {name!r} (version {version!r}, namespace {namespace!r})"


def guarded(call: Callable[[], Any], what: str) -> Any:
    """The result of `call`; PluginError with the text of what it raises, and where it was raised."""
    try:
        return call()
    except Exception as error:  # the application's code may raise anything
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise PluginError(
            f"{what} raised {type(error).__name__}: {brief(error)} "
            f"({Path(frame.filename).name}, line {frame.lineno})"
        ) from error
