"""Files of figures say by what they were made."""

import datetime
import sys
from types import SimpleNamespace

import pytest

from systems import provenance
from systems.version import commit


@pytest.mark.parametrize(
    ("argv", "module", "command"),
    [
        (["/x/evaluate.py", "--json", "a b.json"], None, "python evaluate.py --json 'a b.json'"),
        (
            ["/x/benchmarks/__main__.py", "--rounds=1"],
            "benchmarks.__main__",
            "python -m benchmarks --rounds=1",
        ),
        (["/x/systems/flicker.py"], "systems.flicker", "python -m systems.flicker"),
    ],
)
def test_what_is_measured_says_how(monkeypatch, argv, module, command):
    monkeypatch.setattr(sys, "argv", argv)
    spec = module and SimpleNamespace(name=module)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", spec)
    made = provenance.made(windows=3, training=0)
    assert made["command"] == command
    assert made["commit"] == commit()
    assert datetime.date.fromisoformat(made["date"])
    assert made["machine"].startswith(provenance.processor())
    assert made["seeds"] == {"windows": 3, "training": 0}
