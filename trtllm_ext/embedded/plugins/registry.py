"""The registry: creators by name, version and namespace, and resources that plugins share."""

from __future__ import annotations

import threading
from typing import Any

from trtllm_ext.embedded.enums import EngineCapability
from trtllm_ext.embedded.plugins.interfaces import IPluginCreator, IPluginCreatorInterface, IPluginResource
from trtllm_ext.embedded.types import text_of

Key = tuple[str, str, str]


class IPluginRegistry:
    """Creators and resources. One belongs to the process; each Builder and Runtime has one below it.

    Any number of threads may use it.
    """

    def __init__(self) -> None:
        raise TypeError(
            "IPluginRegistry: No constructor defined! get_plugin_registry() gives the process's, and Builder and "
            "Runtime have one each."
        )

    @classmethod
    def _make(cls, parent: IPluginRegistry | None = None) -> IPluginRegistry:
        registry = object.__new__(cls)
        registry._parent = parent
        registry._searches_parent = True
        registry._error_recorder = None
        registry._creators = {}
        registry._resources = {}
        registry._lock = threading.RLock()
        return registry

    _parent: IPluginRegistry | None
    _searches_parent: bool
    _error_recorder: Any
    _creators: dict[Key, Any]
    _resources: dict[str, tuple[IPluginResource, int]]
    _lock: threading.RLock

    @property
    def parent_search_enabled(self) -> bool:
        """Whether creators are looked up in the registry above this one too."""
        return self._searches_parent

    @parent_search_enabled.setter
    def parent_search_enabled(self, value: bool) -> None:
        self._searches_parent = bool(value)

    @property
    def error_recorder(self) -> Any:
        """Kept for the application; what goes wrong is raised or logged."""
        return self._error_recorder

    @error_recorder.setter
    def error_recorder(self, recorder: Any) -> None:
        self._error_recorder = recorder

    # Creators

    @property
    def all_creators(self) -> list[Any]:
        """The creators in this registry."""
        with self._lock:
            return list(self._creators.values())

    @property
    def all_creators_recursive(self) -> list[Any]:
        """The creators in this registry and, unless `parent_search_enabled` is off, in those above it."""
        above = [] if self._above is None else self._above.all_creators_recursive
        return self.all_creators + above

    @property
    def plugin_creator_list(self) -> list[IPluginCreator]:
        """The creators of plugins of the second version."""
        return [creator for creator in self.all_creators if isinstance(creator, IPluginCreator)]

    def register_creator(self, creator: IPluginCreatorInterface, plugin_namespace: str = "") -> bool:
        """Add a creator; False if there is one of the same name, version and namespace.

        Without `plugin_namespace` the creator's own counts. Raises AttributeError if it has no name or version.
        """
        if not isinstance(creator, IPluginCreatorInterface):
            raise TypeError(
                f"a creator is an IPluginCreatorV3One, not {creator!r}; derive its class from it and pass an object"
            )
        namespace = text_of(plugin_namespace, "plugin_namespace") or _own(creator, "plugin_namespace", "")
        key = (_own(creator, "name"), _own(creator, "plugin_version"), namespace)
        with self._lock:
            if key in self._creators:
                return False
            self._creators[key] = creator
        return True

    def deregister_creator(self, creator: IPluginCreatorInterface) -> bool:
        """Take a creator out; False if it is not there. Engines that were loaded with it stay as they are."""
        with self._lock:
            for key, there in self._creators.items():
                if there is creator:
                    del self._creators[key]
                    return True
        return False

    def get_creator(self, type: str, version: str, plugin_namespace: str = "") -> Any:
        """The creator of that name, version and namespace, or None."""
        key = (
            text_of(type, "type"),
            text_of(version, "version"),
            text_of(plugin_namespace, "plugin_namespace"),
        )
        with self._lock:
            found = self._creators.get(key)
        if found is None and self._above is not None:
            return self._above.get_creator(*key)
        return found

    def get_plugin_creator(
        self, type: str, version: str, plugin_namespace: str = ""
    ) -> IPluginCreator | None:
        """As `get_creator()`, for creators of plugins of the second version only."""
        found = self.get_creator(type, version, plugin_namespace)
        return found if isinstance(found, IPluginCreator) else None

    def load_library(self, plugin_path: str) -> Any:
        """Raises RuntimeError: plugins of the embedded engine are written in Python."""
        raise RuntimeError(
            f"plugin library {plugin_path!r} cannot be loaded: the embedded engine runs plugins written in Python "
            "only. Write an IPluginV3 in Python and register its creator with register_creator()."
        )

    def deregister_library(self, handle: Any) -> None:
        """Raises RuntimeError: no library has been loaded."""
        raise RuntimeError("no plugin library has been loaded; the embedded engine has none to deregister.")

    # Resources

    def acquire_plugin_resource(self, key: str, resource: IPluginResource) -> IPluginResource:
        """The resource kept under `key`, by this call a clone of `resource` if there was none.

        Each call counts as one user; see `release_plugin_resource()`.
        """
        if not isinstance(resource, IPluginResource):
            raise TypeError(f"a resource is an IPluginResource, not {resource!r}")
        with self._lock:
            kept, users = self._resources.get(text_of(key, "key"), (None, 0))
            if kept is None:
                kept = resource.clone()
                if not isinstance(kept, IPluginResource):
                    raise TypeError(
                        f"{type(resource).__name__}.clone() gave {kept!r}, which is no IPluginResource"
                    )
            self._resources[key] = (kept, users + 1)
            return kept

    def release_plugin_resource(self, key: str) -> int:
        """One user less; the resource of the last one is released. 0, or -1 if there is no such resource."""
        with self._lock:
            kept, users = self._resources.get(text_of(key, "key"), (None, 0))
            if kept is None:
                return -1
            if users > 1:
                self._resources[key] = (kept, users - 1)
                return 0
            del self._resources[key]
            kept.release()
            return 0

    @property
    def _above(self) -> IPluginRegistry | None:
        return self._parent if self._searches_parent else None


def _own(creator: Any, attribute: str, otherwise: str | None = None) -> str:
    value = getattr(creator, attribute, otherwise)
    if not isinstance(value, str):
        raise AttributeError(
            f"{type(creator).__name__}.{attribute} is not initialized: it is {value!r}, where a str belongs"
        )
    return value


_PROCESS_REGISTRY = IPluginRegistry._make()


def get_plugin_registry() -> IPluginRegistry:
    """The registry of the process."""
    return _PROCESS_REGISTRY


def get_builder_plugin_registry(arg0: EngineCapability) -> IPluginRegistry:
    """The registry of the process, whatever the capability."""
    if not isinstance(arg0, EngineCapability):
        raise TypeError(f"expected an EngineCapability, got {arg0!r}")
    return _PROCESS_REGISTRY


def init_libnvinfer_plugins(logger: Any, namespace: str) -> bool:
    """True; NVIDIA's own plugins, which TensorRT registers here, do not exist in the embedded engine."""
    return True
