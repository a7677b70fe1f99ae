"""Which version of this project runs."""

from __future__ import annotations

import subprocess
from pathlib import Path

NAME = "Compressing-Dynamical-Systems-Atari"
VERSION = "0.1.0"

_ROOT = Path(__file__).parent.parent


def commit(root: Path = _ROOT) -> str | None:
    """Returns the commit that is checked out, such as "d412246" or "d412246-dirty".

    None where `root` is no checkout of its own, or there is no Git.
    """
    return _git(root, "describe", "--always", "--dirty", "--exclude=*")


def full_commit(root: Path = _ROOT) -> str | None:
    """Returns the commit that is checked out, 40 digits; None as `commit` does."""
    return _git(root, "rev-parse", "HEAD")


def _git(root, *arguments):
    if not (root / ".git").exists():  # or the commit would be that of a directory around it
        return None
    command = ["git", "-C", str(root), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def version() -> str:
    """Returns the project's name and version on one line, with the commit if it is known."""
    checked_out = commit()
    return f"{NAME} {VERSION}" + (f", commit {checked_out}" if checked_out else "")
