"""Files of figures say by what they were made."""

import datetime
import sys

import pytest

from systems import provenance
from systems.version import commit


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (["/x/evaluate.py", "--json", "a b.json"], "python evaluate.py --json 'a b.json'"),
        (["/x/benchmarks/__main__.py", "--rounds=1"], "python -m benchmarks --rounds=1"),
    ],
)
def test_what_is_measured_says_how(monkeypatch, argv, command):
    monkeypatch.setattr(sys, "argv", argv)
    made = provenance.made(windows=3, training=0)
    assert made["command"] == command
    assert made["commit"] == commit()
    assert datetime.date.fromisoformat(made["date"])
    assert made["machine"].startswith(provenance.processor())
    assert made["seeds"] == {"windows": 3, "training": 0}
