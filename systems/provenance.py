"""How figures were made: what a file of measurements says of itself."""

from __future__ import annotations

import datetime
import platform
import shlex
import sys
from pathlib import Path

from systems.files import num_cores
from systems.version import commit


def made(**seeds: int) -> dict:
    """Returns by what code, when, on what machine and by which command this process measures.

    Args:
        seeds: those that the figures depend on, by what they choose.

    Returns:
        dict of commit (None if unknown), date, machine, command and seeds.
    """
    spec = sys.modules["__main__"].__spec__  # of a module that runs by `python -m`
    name = f"-m {spec.name.removesuffix('.__main__')}" if spec else Path(sys.argv[0]).name
    return {
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
        "machine": f"{processor()}, {num_cores()} cores",
        "command": " ".join(["python", name, *map(shlex.quote, sys.argv[1:])]),
        "seeds": seeds,
    }


def processor() -> str:
    """Returns the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
