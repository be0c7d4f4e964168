"""Arrays from and to .npz files: nothing executable is read, and nothing half is written."""

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trtllm_ext.cli.options import check_input
from trtllm_ext.errors import InputError
from trtllm_ext.runtime.atomic import file_target, replaced_file


def read_npz(path: str) -> dict[str, np.ndarray[Any, Any]]:
    """All arrays of a file that `numpy.savez` wrote, in row-major order. Raises InputError."""
    check_input(path, "an .npz file of named arrays")
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise InputError(
                f"{path} holds a single array without a name; write it with numpy.savez(file, name=array)."
            )
        with archive:
            # ascontiguousarray alone would turn an array without dimensions into one with one.
            return {name: np.asarray(archive[name], order="C") for name in archive.files}
    except InputError:
        raise
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as problem:
        reason = str(problem).partition("\n")[0] or "damaged"
        if "pickle" in reason:  # numpy's advice, to allow it, is not for files from elsewhere
            whole = zipfile.is_zipfile(path)
            reason = "it holds Python objects" if whole else "it is no zip archive, or not all of one"
        raise InputError(
            f"{path} is not an .npz file of plain arrays ({reason}). Write it with numpy.savez(file, name=array)."
        ) from problem


def check_output(path: str, *inputs: str | None) -> None:
    """Refuse, before anything is computed, an output file that cannot be written or is one of the inputs.

    Raises InputError.
    """
    target = file_target(path, InputError)
    for each in inputs:
        if each and target.exists() and Path(each).exists() and target.samefile(each):
            raise InputError(
                f"--output {path} is the input file {each}, which it would replace. Give another name."
            )


def write_npz(path: str, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Write arrays as `numpy.savez` does; the file appears whole or not at all. Raises InputError."""
    # Not numpy.savez itself: its keyword arguments leave no room for an array called "file".
    with replaced_file(path, error=InputError) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
