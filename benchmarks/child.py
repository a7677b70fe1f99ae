"""Runs one measurement in a process of its own: `python -m benchmarks.child train.ours '{...}'`.

Of its own, because two frameworks' thread pools in one process would slow each other down.
"""

import contextlib
import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent


def measure(function, **arguments):
    """Calls `benchmarks.<module>.<function>` in a new process; returns what it returns, as JSON.

    Raises:
        subprocess.CalledProcessError: it failed; what it had to say is printed.
    """
    command = [sys.executable, "-m", "benchmarks.child", function, json.dumps(arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
        done.check_returncode()
    return json.loads(done.stdout.splitlines()[-1])


def seconds_of(work, repeats=16, warm_up=1):
    """Seconds that each of `repeats` calls takes, after `warm_up` that are not counted."""
    for _ in range(warm_up):
        work()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return seconds


if __name__ == "__main__":
    with contextlib.suppress(ImportError):
        import triton  # noqa: F401 - PyTorch's compiler; loaded after TensorFlow, it ends the process
    module, name = sys.argv[1].split(".")
    result = getattr(importlib.import_module(f"benchmarks.{module}"), name)(
        **json.loads(sys.argv[2])
    )
    print(json.dumps(result))
