"""Speed, measured beside what a user would pick instead: `python -m benchmarks`."""

import time

STARTED = time.perf_counter()  # of this process, not counting the interpreter's own start
