"""The errors that this package raises on purpose.

Each message says what was wrong, where, and what would be right. `str(error)` is fit to be shown to a user
without a traceback; the command line does exactly that.
"""


class TrtllmExtError(Exception):
    """Base of every error raised on purpose by this package."""


class BackendError(TrtllmExtError):
    """The requested TensorRT or TensorRT-LLM is not there, or lacks what is needed."""


class ConfigError(TrtllmExtError, ValueError):
    """A configuration (build config, model config, arguments of a layer) is not valid."""


class GraphError(TrtllmExtError):
    """A network cannot be defined as written: shapes, types or ranks do not fit."""


class BuildError(TrtllmExtError):
    """An engine could not be built from a network."""


class CheckpointError(TrtllmExtError):
    """A checkpoint is missing, damaged, incomplete, or of a form that is not supported."""


class EngineError(TrtllmExtError):
    """An engine file or directory is damaged, foreign, or does not fit this installation."""


class InputError(TrtllmExtError, ValueError):
    """What was given to a session does not fit the engine: name, type, shape, memory layout."""


class AnalysisError(TrtllmExtError):
    """What was asked about a model's residual stream cannot be answered for it, or the answer cannot be written."""


class RankError(TrtllmExtError):
    """The ranks of a world cannot go on together: one has failed, is gone, is late, or does something else."""


class KernelError(TrtllmExtError):
    """A CUDA kernel refused its arguments or its device. status: the C interface's name for it, such as
    'UNSUPPORTED_DEVICE'."""

    def __init__(self, message: str, status: str) -> None:
        super().__init__(message)
        self.status = status
