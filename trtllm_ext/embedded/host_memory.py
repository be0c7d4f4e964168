"""Memory that holds a serialized engine."""

import mmap
import tempfile
from typing import BinaryIO

from trtllm_ext.embedded.enums import DataType
from trtllm_ext.embedded.surface.lifetime import Lifetime


class IHostMemory(Lifetime, mmap.mmap):
    """Bytes that the library made, read through the buffer protocol.

    They lie in a temporary file that has no name any more, mapped read-only: they take no private memory, and
    go away with the last reference.
    """

    @property
    def nbytes(self) -> int:
        """Number of bytes."""
        return len(self)

    @property
    def dtype(self) -> DataType:
        """Type of an element: bytes, which the API calls INT8."""
        return DataType.INT8


def temporary_file() -> BinaryIO:
    """A nameless temporary file to write what becomes an IHostMemory. Raises OSError if there is no room."""
    return tempfile.TemporaryFile(prefix="trtllm_ext-")


def host_memory_of(file: BinaryIO) -> IHostMemory:
    """The contents of `file`, which must not be empty, as memory; the file itself may be closed afterwards."""
    file.flush()
    return IHostMemory(file.fileno(), 0, access=mmap.ACCESS_READ)


def host_memory_from(data: bytes) -> IHostMemory:
    """A copy of `data`, which must not be empty."""
    with temporary_file() as file:
        file.write(data)
        return host_memory_of(file)
