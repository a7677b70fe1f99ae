"""Speed, measured beside what a user would pick instead: `python -m benchmarks`."""

import time

STARTED = time.time()  # of this process, but for the interpreter's own start
