"""What a training logs is shown by TensorBoard's page.

The guide's screenshot is made by this test, with the logs of a training:

    TENSORBOARD_LOGS=demo/checkpoints TENSORBOARD_SCREENSHOT=docs/pictures/tensorboard.png \\
        pytest tests/test_tensorboard_page.py
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
from urllib.parse import quote

import numpy as np
import pytest

from utils.watching.tensorboard import Logs

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# The tags of the screenshot.
SHOWN = r"roll_out$|pretraining_loss$|error_at_step_10/mse$"


@pytest.fixture
def logs(tmp_path):
    if trained := os.environ.get("TENSORBOARD_LOGS"):
        return trained
    logs = Logs(tmp_path / "paper_seq_1" / "logs")
    for step in (100, 200):
        logs.scalars(step, {"error_at_step_10/mse": 9.0 / step, "loss": 900.0 / step})
        clip = np.random.default_rng(step).integers(0, 256, (3, 20, 30, 3), np.uint8)
        logs.video(step, "roll_out", clip)
    logs.close()
    return tmp_path


@contextlib.contextmanager
def tensorboard(directory):
    """TensorBoard's address while it serves a directory's logs."""
    command = [sys.executable, "-m", "tensorboard.main", f"--logdir={directory}", "--port=0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        for line in process.stderr:
            if found := re.search(r"http://[^ ]+", line):
                yield found[0]
                return
        raise AssertionError("TensorBoard has ended without an address")
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.mark.thorough
@pytest.mark.skipif(not CHROMIUM, reason="there is no chromium: apt-get install chromium")
def test_tensorboard_shows_errors_and_moving_roll_outs(logs):
    from playwright.sync_api import sync_playwright

    with (
        tensorboard(logs) as address,
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]) as browser,
    ):
        page = browser.new_page(viewport={"width": 1300, "height": 900})
        page.goto(f"{address.rstrip('/')}/?darkMode=false&tagFilter={quote(SHOWN)}#timeseries")
        page.wait_for_selector("text=error_at_step_10", timeout=60_000)
        page.wait_for_selector("text=roll_out", timeout=60_000)
        if path := os.environ.get("TENSORBOARD_SCREENSHOT"):
            page.locator("button:has-text('Settings')").first.click()
            page.wait_for_timeout(8000)  # until all pictures are loaded
            page.screenshot(path=path)
