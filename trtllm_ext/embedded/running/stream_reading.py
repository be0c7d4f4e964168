"""Serialized engines that an application hands over piece by piece."""

from typing import Any

from trtllm_ext.embedded.brief import brief
from trtllm_ext.embedded.host_memory import IHostMemory, host_memory_of, temporary_file
from trtllm_ext.embedded.plan.layout import CHUNK_BYTES
from trtllm_ext.embedded.surface.interfaces import IStreamReader, IStreamReaderV2
from trtllm_ext.errors import EngineError

_NO_STREAM = 0


def read_stream(reader: IStreamReader | IStreamReaderV2) -> IHostMemory:
    """All that a reader gives, up to the first empty piece, in a nameless temporary file.

    Raises EngineError if the reader fails or gives no bytes at all, OSError if there is no room.
    """
    # Overrides take another argument than the methods that TensorRT declares.
    read: Any = reader.read
    arguments = (_NO_STREAM,) if isinstance(reader, IStreamReaderV2) else ()
    with temporary_file() as file:
        while True:
            try:
                piece = memoryview(read(CHUNK_BYTES, *arguments))
            except Exception as error:  # the application's code may raise anything
                raise EngineError(f"the stream reader failed: {brief(error)}") from error
            if not piece.nbytes:
                break
            file.write(piece)
        if not file.tell():
            raise EngineError("the stream reader gave no bytes.")
        return host_memory_of(file)
