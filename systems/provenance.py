"""How figures were made: what a file of measurements says of itself."""

from __future__ import annotations

import datetime
import platform
import re
import shlex
import sys
from pathlib import Path

from systems.files import num_cores
from systems.version import commit

# By the flags of Linux, widest first.
INSTRUCTIONS = {
    "amx_bf16": "AMX",
    "avx512_bf16": "AVX-512 and bfloat16",
    "avx512f": "AVX-512",
    "avx2": "AVX2",
}


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


def processor(cpuinfo: str | Path = "/proc/cpuinfo") -> str:
    """Returns the processor's name and its widest instructions, by which speeds differ most.

    Args:
        cpuinfo: where Linux lists them; other systems have no such file.
    """
    try:
        text = Path(cpuinfo).read_text()
        name = re.search(r"^model name\s*: *(.*\S)", text, re.MULTILINE)[1]
    except (OSError, TypeError):
        return platform.processor() or platform.machine()
    flags = text.split()
    widest = next((words for flag, words in INSTRUCTIONS.items() if flag in flags), None)
    return f"{name} with {widest}" if widest else name
