"""Having the disk write while a file is still being made, so that the sync at its end finds little left to do."""

import ctypes

_SYNC_FILE_RANGE_WRITE = 2


def start_writeback(descriptor: int, offset: int, size: int) -> None:
    """Begin to write a part of an open file to the disk, without a promise: fsync gives that.

    Nothing happens where the system has no such call. Takes a while when the disk's queue is full.
    """
    call = getattr(ctypes.CDLL(None), "sync_file_range", None)  # Linux
    if call is not None:
        call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
        call(descriptor, offset, size, _SYNC_FILE_RANGE_WRITE)
