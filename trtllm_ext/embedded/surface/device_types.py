"""The part of IBuilderConfig that gives layers to devices: there is one device."""

from trtllm_ext.embedded.enums import DeviceType
from trtllm_ext.embedded.layers.base import ILayer
from trtllm_ext.embedded.logger import ILogger


class DeviceTypes:
    """Devices of layers. Every layer runs on what the API calls the GPU; a DLA is refused with an error in the log."""

    __slots__ = ()
    _logger: ILogger
    _device_types: dict[ILayer, DeviceType]
    default_device_type: DeviceType

    def set_device_type(self, layer: ILayer, device_type: DeviceType) -> None:
        """Give a layer to a device."""
        if device_type == DeviceType.DLA:
            self._logger.log(
                ILogger.ERROR, f"set_device_type: {layer.name} cannot run on a DLA; there is none."
            )
            return
        self._device_types[layer] = DeviceType(device_type)

    def get_device_type(self, layer: ILayer) -> DeviceType:
        """The device of a layer."""
        return self._device_types.get(layer, self.default_device_type)

    def is_device_type_set(self, layer: ILayer) -> bool:
        """Whether `set_device_type()` was called for a layer."""
        return layer in self._device_types

    def reset_device_type(self, layer: ILayer) -> None:
        """Undo `set_device_type()`."""
        self._device_types.pop(layer, None)

    def can_run_on_DLA(self, layer: ILayer) -> bool:  # noqa: N802
        """Always False."""
        return False
