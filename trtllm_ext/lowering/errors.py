"""The error of this room."""

from trtllm_ext.errors import BuildError


class LoweringError(BuildError):
    """A network holds something that cannot be expressed in ONNX for the embedded engine."""
