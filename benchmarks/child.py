"""Runs one measurement in a process of its own: `python -m benchmarks.child train.ours '{...}'`.

Of its own, because two frameworks' thread pools in one process would slow each other down.
"""

import argparse
import contextlib
import importlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from utils.start import prepare

ROOT = Path(__file__).parent.parent


def in_new_process(function: str, **arguments: Any) -> dict:
    """Calls a function of this package in a new process; returns what it returns.

    Args:
        function: `<module>.<function>`, such as `train.ours`.
        arguments: its own, which have to be JSON.

    Raises:
        subprocess.CalledProcessError: it failed. What it printed is printed.
    """
    command = [sys.executable, "-m", "benchmarks.child", function, json.dumps(arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
        done.check_returncode()
    return json.loads(done.stdout.splitlines()[-1])


def seconds_of(work: Callable[[], Any], repeats: int = 16, warm_up: int = 1) -> list[float]:
    """Seconds that each of `repeats` calls takes, after `warm_up` calls that do not count."""
    for _ in range(warm_up):
        work()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return seconds


def main() -> None:
    """Calls the function that the command line names and prints what it returns, as JSON."""
    prepare()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.child",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("function", help="<module>.<function> of this package, such as data.ours")
    parser.add_argument("arguments", type=json.loads, help="its arguments, a JSON object")
    args = parser.parse_args()
    with contextlib.suppress(ImportError):
        # PyTorch's compiler, before TensorFlow: loaded after it, it ends the process.
        import triton  # noqa: F401
    module, name = args.function.split(".")
    function = getattr(importlib.import_module(f"benchmarks.{module}"), name)
    print(json.dumps(function(**args.arguments)))


if __name__ == "__main__":
    main()
