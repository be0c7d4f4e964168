"""The lock that every writer of a directory meets, however it names the directory and wherever it stands."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from trtllm_ext.errors import TrtllmExtError


@contextmanager
def directory_lock(directory: Path, what: str, error: type[TrtllmExtError]) -> Iterator[None]:
    """Be the only writer of `directory`, which need not exist; raises `error` when another one is at work.

    Two locks: on a lock file, which is there before the directory is and stays when the directory is exchanged for
    another; it lies beside the directory, or in it where nothing can be created beside it. And on the directory
    itself, for writers of other rights, whose lock file is the other one, and for directories with several paths.
    what: what is written ("engine"), for the message.
    """
    files = [room / f".{directory.name}.lock" for room in (directory.parent, directory)]
    if directory.is_dir() and not os.access(directory.parent, os.W_OK):
        files.reverse()
    file, other = files
    with ExitStack() as stack:
        try:
            handle = _take(file, os.O_RDWR | os.O_CREAT)
        except BlockingIOError:
            raise _busy(directory, what, file, error) from None
        stack.callback(os.close, handle)
        stack.callback(file.unlink, missing_ok=True)
        if directory.is_dir():
            try:
                stack.callback(os.close, _take(directory, os.O_RDONLY | os.O_DIRECTORY))
            except BlockingIOError:
                raise _busy(directory, what, other, error) from None
            except OSError:
                pass  # network file systems lock files only
        with suppress(OSError):  # only a courtesy to the reader of the message; a full disk fails later
            os.pwrite(handle, f"{os.getpid():<31}\n".encode(), 0)
        yield


def _take(path: Path, flags: int) -> int:
    """An open file descriptor that holds the lock on `path`; BlockingIOError when somebody else does."""
    while True:
        handle = os.open(path, flags | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The holder before us may have removed or exchanged what we opened.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), path.stat()):
                    return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _busy(directory: Path, what: str, file: Path, error: type[TrtllmExtError]) -> TrtllmExtError:
    owner = "unknown"
    with suppress(OSError, ValueError):
        owner = str(int(file.read_text(encoding="ascii")))
    return error(
        f"another process (pid {owner}) is writing the {what} in {directory} right now. Wait until it is done, or "
        f"choose another output directory."
    )
