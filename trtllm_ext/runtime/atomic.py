"""Directories and files that appear whole or not at all.

A directory is filled beside its final place and renamed (an existing one is exchanged in a single step), so a
reader never meets half of it, and a writer that dies leaves the old one untouched. The one exception is a
directory that cannot be renamed (a mount point, the current directory): there its config.json goes first and
comes back last, so that what is half written is refused for want of it.
"""

import ctypes
import errno
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtllm_ext.errors import TrtllmExtError
from trtllm_ext.runtime.json_files import read_json_object
from trtllm_ext.runtime.locks import directory_lock

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


@dataclass(frozen=True)
class Kind:
    """A kind of directory that is written as a whole, and may be replaced by the next of its kind.

    what: its name in messages ("engine"). files: the names that its files may have.
    is_config: tells from the content of a config.json whether it is one of this kind.
    error: the exception raised for everything that goes wrong with the file system.
    config: the name of the JSON file that every one of this kind has, and that is_config is asked about.
    """

    what: str
    files: re.Pattern[str]
    is_config: Callable[[dict[str, Any]], bool]
    error: type[TrtllmExtError]
    config: str = "config.json"

    def foreign(self, directory: Path) -> list[str]:
        """Names in `directory` that no earlier result of this kind accounts for; none when it is empty.

        File names alone prove nothing: every model folder has a config.json. Its content decides.
        """
        names = sorted(entry.name for entry in directory.iterdir() if not _is_ours(entry.name, directory))
        if not self._is_earlier(directory):
            return names
        return [name for name in names if not self.files.fullmatch(name) or not (directory / name).is_file()]

    def _is_earlier(self, directory: Path) -> bool:
        if not (directory / self.config).exists():
            return _marker(directory).exists()
        try:
            return self.is_config(read_json_object(directory / self.config, self.error))
        except self.error:
            return False


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
def write_errors(path: str | os.PathLike[str], error: type[TrtllmExtError]) -> Iterator[None]:
    """Turn operating system errors of the block, which does nothing but write `path`, into `error`."""
    try:
        yield
    except OSError as problem:
        raise error(os_error_text(problem, Path(path).resolve())) from problem


@contextmanager
def replaced_directory(path: str | os.PathLike[str], kind: Kind) -> Iterator[Path]:
    """Yield an empty directory to fill; when the block ends well it takes the place of `path`.

    `path` must not exist, be empty, or hold an earlier result of this kind; anything else is refused, because it
    would be deleted. Raises kind.error for that and for everything that goes wrong with the file system: not
    writable, disk full, a second writer into the same directory. What the block raises travels as it is: it may have
    read other files or called other people's code, so it puts its own writing into `write_errors`.
    """
    final = Path(path).resolve()
    with ExitStack() as stack:
        with write_errors(final, kind.error):
            final.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(directory_lock(final, kind.what, kind.error))
            check_target(final, kind)
            in_place = _cannot_be_renamed(final)
            room = final if in_place else final.parent
            prefix = f".{final.name}.writing-"
            _remove_leftovers(room, prefix)
            staging = Path(tempfile.mkdtemp(prefix=prefix, dir=room))
            stack.callback(shutil.rmtree, staging, ignore_errors=True)
            staging.chmod(final.stat().st_mode & 0o7777 if final.exists() else 0o777 & ~_umask())
        yield staging
        with write_errors(final, kind.error):
            _sync(staging)
            # Again: the first look was before the work, which may have taken minutes.
            check_target(final, kind)
            if in_place:
                _move_files(staging, final, kind)
            else:
                _take_place(staging, final)


def file_target(path: str | os.PathLike[str], error: type[TrtllmExtError]) -> Path:
    """The file that writing `path` replaces: the target of a symbolic link, else `path` itself.

    Raises `error` for what cannot be replaced: a directory, a device, a pipe, a socket, a place without a directory.
    """
    given = Path(path)
    try:
        with suppress(FileNotFoundError):
            mode = given.stat().st_mode
            if stat.S_ISDIR(mode):
                raise error(f"cannot write {given}: it is a directory. Give the name of a file.")
            if not stat.S_ISREG(mode):
                raise error(
                    f"cannot write {given}: it is no regular file (a device, a pipe or a socket), and the file is "
                    f"written by replacing what is there. Give the name of a file."
                )
        final = given.resolve() if given.is_symlink() else given
        if not final.parent.is_dir():
            raise error(f"cannot write {final}: there is no directory {final.parent}. Create it first.")
    except OSError as problem:
        raise error(os_error_text(problem, given)) from problem
    return final


@contextmanager
def replaced_file(path: str | os.PathLike[str], *, error: type[TrtllmExtError]) -> Iterator[Path]:
    """Yield a temporary name to write to; when the block ends well, what was written takes that file's place.

    Where the system can, the new file is in no directory until then, so that a process that is killed leaves nothing.
    Raises `error` as `file_target` does, and for everything that goes wrong with the file system.
    """
    final = file_target(path, error)
    beside = final.with_name(f".{final.name}.writing-{secrets.token_hex(4)}")
    try:
        with ExitStack() as stack:
            stack.callback(beside.unlink, missing_ok=True)
            unnamed = _unnamed_file(final.parent)
            if unnamed is None:
                beside.touch(exist_ok=False)
                yield beside
            else:
                stack.callback(os.close, unnamed)
                yield Path(f"/proc/self/fd/{unnamed}")
                # Python follows the link to the file only with src_dir_fd, which this path does not need.
                os.link(f"/proc/self/fd/{unnamed}", beside, src_dir_fd=unnamed)
            beside.replace(file_target(final, error))
    except OSError as problem:
        raise error(os_error_text(problem, final)) from problem


def _unnamed_file(folder: Path) -> int | None:
    """A new file on the file system of a folder; None where that, or this system, knows only files with names."""
    if not hasattr(os, "O_TMPFILE") or not Path("/proc/self/fd").is_dir():
        return None
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o666)
    except OSError:  # what is wrong with the folder itself, a file with a name meets too
        return None


def check_target(path: str | os.PathLike[str], kind: Kind) -> None:
    """Raise kind.error for a directory that `replaced_directory` would not replace: to be told before the work."""
    final = Path(path).resolve()
    if not final.exists():
        return
    if not final.is_dir():
        raise kind.error(f"cannot write {final}: it is a file, and the {kind.what} needs a directory.")
    with write_errors(final, kind.error):
        foreign = sorted(kind.foreign(final), key=lambda name: (name.startswith("."), name))
    if foreign:
        listed = ", ".join(foreign[:5]) + (f" and {len(foreign) - 5} more" if len(foreign) > 5 else "")
        raise kind.error(
            f"{final} holds files that are no part of an earlier {kind.what}: {listed}. The directory is replaced "
            f"as a whole, so give an empty or a new one."
        )


def _is_ours(name: str, final: Path) -> bool:
    return name.startswith((f".{final.name}.lock", f".{final.name}.writing-", _marker(final).name))


def _marker(final: Path) -> Path:
    """Stands in for config.json while files are moved in place: what lies here was this package's."""
    return final / f".{final.name}.replacing"


def _cannot_be_renamed(final: Path) -> bool:
    if not final.is_dir():
        return False
    # Renaming the directory a shell stands in would leave that shell in a deleted one.
    return final.is_mount() or Path.cwd().is_relative_to(final) or not os.access(final.parent, os.W_OK)


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


def _move_files(staging: Path, final: Path, kind: Kind) -> None:
    _marker(final).touch()
    (final / kind.config).unlink(missing_ok=True)
    new = sorted((entry.name for entry in staging.iterdir()), key=lambda name: name == kind.config)
    for entry in final.iterdir():
        if kind.files.fullmatch(entry.name) and entry.name not in new:
            entry.unlink()
    for name in new:
        (staging / name).replace(final / name)
    _marker(final).unlink()
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
