"""Reads .npz files. All are read here, because each kind of damage is another kind of error."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from systems.errors import InputError, one_line

# What is raised where a file is missing, empty, cut off, altered, or no .npz at all.
_DAMAGED = (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


def read_npz(path: Path, expected: str, advice: str = "") -> dict[str, np.ndarray]:
    """Reads all arrays of a file that `numpy.savez` has written.

    Args:
        path: of the file.
        expected: what it should hold, and where it lies, to tell the user.
        advice: what the user can do about it, whole sentences.

    Returns:
        the arrays by name.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        # `numpy.load` takes what is no .npz, such as a pointer of Git LFS, for a pickle, and its
        # error advises to trust that.
        with np.lib.npyio.NpzFile(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except _DAMAGED as error:
        reason = one_line(error).rstrip(".") or type(error).__name__
        raise InputError(
            f"expected {expected}, but reading failed: {reason}. {advice}".rstrip()
        ) from error
