"""Directories and files that appear whole or not at all, and locks against two writers.

A directory is filled beside its final place and renamed (an existing one is exchanged in a single step), so a
reader never meets half of it, and a writer that dies leaves the old one untouched. The one exception is a
directory that cannot be renamed (a mount point, the current directory): there config.json goes first and
comes back last, so that what is half written is refused for want of it.
"""

import ctypes
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trtllm_ext.errors import TrtllmExtError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


def os_error_text(error: OSError, path: Path) -> str:
    """What happened to `path`, and what to do, for an operating system error met while writing it."""
    reason = (error.strerror or str(error)).lower()
    if error.errno in _FULL:
        return (
            f"cannot write {path}: the disk is full, or a quota or file size limit is reached ({reason}). "
            f"Nothing was left behind. Free space there or choose another place."
        )
    if error.errno in _DENIED:
        return f"cannot write {path}: {reason}. Choose a place that this user may write to."
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return f"cannot write {path}: a part of that path is a file, not a directory."
    return f"cannot write {path}: {reason}."


@contextmanager
def replaced_directory(
    path: str | os.PathLike[str],
    *,
    belongs: Callable[[str], bool],
    what: str,
    error: type[TrtllmExtError],
) -> Iterator[Path]:
    """Yield an empty directory to fill; when the block ends well it takes the place of `path`.

    belongs: tells which file names an earlier result may consist of; `path` is refused when it holds others,
    because they would be deleted.
    what: what is written ("engine"), for messages.
    error: the exception raised for everything that goes wrong with the file system: not writable, disk full,
    a second writer into the same directory.
    """
    final = Path(path).resolve()
    try:
        _check_target(final, belongs, what, error)
        final.parent.mkdir(parents=True, exist_ok=True)
        in_place = _cannot_be_renamed(final)
        room = final if in_place else final.parent
        with _lock(room / f".{final.name}.lock", final, what, error):
            prefix = f".{final.name}.writing-"
            _remove_leftovers(room, prefix)
            staging = Path(tempfile.mkdtemp(prefix=prefix, dir=room))
            try:
                staging.chmod(final.stat().st_mode & 0o7777 if final.exists() else 0o777 & ~_umask())
                yield staging
                _sync(staging)
                # Again: the first look was before the work, which may have taken minutes.
                _check_target(final, belongs, what, error)
                if in_place:
                    _move_files(staging, final, belongs)
                else:
                    _take_place(staging, final)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    except OSError as problem:
        raise error(os_error_text(problem, final)) from problem


@contextmanager
def replaced_file(path: str | os.PathLike[str], *, error: type[TrtllmExtError]) -> Iterator[Path]:
    """Yield a temporary name beside `path`; when the block ends well the file is renamed to `path`."""
    final = Path(path)
    if final.is_dir():
        raise error(f"cannot write {final}: it is a directory. Give the name of a file.")
    try:
        if not final.parent.is_dir():
            raise error(f"cannot write {final}: there is no directory {final.parent}. Create it first.")
        handle, name = tempfile.mkstemp(prefix=f".{final.name}.writing-", dir=final.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            temporary.chmod(0o666 & ~_umask())
            yield temporary
            temporary.replace(final)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as problem:
        raise error(os_error_text(problem, final)) from problem


def _check_target(
    final: Path, belongs: Callable[[str], bool], what: str, error: type[TrtllmExtError]
) -> None:
    if not final.exists():
        return
    if not final.is_dir():
        raise error(f"cannot write {final}: it is a file, and the {what} needs a directory.")
    foreign = sorted(
        entry.name for entry in final.iterdir() if not belongs(entry.name) and not _ours(entry.name, final)
    )
    if foreign:
        listed = ", ".join(foreign[:5]) + (f" and {len(foreign) - 5} more" if len(foreign) > 5 else "")
        raise error(
            f"{final} holds files that are no part of an earlier {what}: {listed}. The directory is replaced "
            f"as a whole, so give an empty or a new one."
        )


def _ours(name: str, final: Path) -> bool:
    return name.startswith((f".{final.name}.lock", f".{final.name}.writing-"))


def _cannot_be_renamed(final: Path) -> bool:
    if not final.is_dir():
        return False
    # Renaming the directory a shell stands in would leave that shell in a deleted one.
    return final.is_mount() or Path.cwd().is_relative_to(final) or not os.access(final.parent, os.W_OK)


@contextmanager
def _lock(path: Path, final: Path, what: str, error: type[TrtllmExtError]) -> Iterator[None]:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(handle, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(handle)
            raise error(
                f"another process (pid {owner}) is writing the {what} in {final} right now. Wait until it is "
                f"done, or choose another output directory."
            ) from None
        except BaseException:
            os.close(handle)
            raise
        # The holder before us removed the file after we opened it: what we locked is no longer at that name.
        with suppress(FileNotFoundError):
            if os.fstat(handle).st_ino == path.stat().st_ino:
                break
        os.close(handle)
    try:
        with suppress(OSError):  # only a courtesy to the reader of the message above; a full disk fails later
            os.pwrite(handle, f"{os.getpid():<31}\n".encode(), 0)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _remove_leftovers(room: Path, prefix: str) -> None:
    """What a killed writer left; the lock is held, so nobody is using it."""
    for entry in room.iterdir():
        if entry.name.startswith(prefix):
            shutil.rmtree(entry, ignore_errors=True)


def _take_place(staging: Path, final: Path) -> None:
    if not final.exists():
        staging.rename(final)
    elif not _exchange(staging, final):
        old = staging.with_name(staging.name + ".old")
        final.rename(old)
        try:
            staging.rename(final)
        except OSError:
            old.rename(final)
            raise
        shutil.rmtree(old, ignore_errors=True)
    _sync_directory(final.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step; False where the kernel or the file system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return False
    return rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0


def _move_files(staging: Path, final: Path, belongs: Callable[[str], bool]) -> None:
    (final / "config.json").unlink(missing_ok=True)
    new = sorted((entry.name for entry in staging.iterdir()), key=lambda name: name == "config.json")
    for entry in final.iterdir():
        if belongs(entry.name) and entry.name not in new:
            entry.unlink()
    for name in new:
        (staging / name).replace(final / name)
    _sync_directory(final)


def _sync(directory: Path) -> None:
    for entry in directory.iterdir():
        handle = os.open(entry, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    _sync_directory(directory)


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    """The process's umask, read without changing it where /proc tells."""
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("Umask:")).split()[1], 8)
    return 0o022
