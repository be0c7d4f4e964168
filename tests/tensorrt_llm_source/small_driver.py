"""What is asked of libcuda by this package, answered where there is none: one device, of compute capability 9.0."""

# CUdevice_attribute, from the CUDA driver API.
_CAPABILITY = {75: 9, 76: 0}


class Driver:
    """References are ctypes.byref's."""

    def cuInit(self, flags):  # noqa: N802 - CUDA's name
        return 0

    def cuDeviceGetCount(self, count):  # noqa: N802 - CUDA's name
        count._obj.value = 1
        return 0

    def cuCtxGetDevice(self, handle):  # noqa: N802 - CUDA's name
        handle._obj.value = 0
        return 0

    def cuDeviceGetAttribute(self, value, which, handle):  # noqa: N802 - CUDA's name
        value._obj.value = _CAPABILITY[which]
        return 0
