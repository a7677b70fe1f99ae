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


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu sse4_2 avx2 avx512f avx512_bf16 amx_bf16", "AMD EPYC with AMX"),
        ("fpu sse4_2 avx2 avx512f avx512_bf16", "AMD EPYC with AVX-512 and bfloat16"),
        ("fpu sse4_2 avx2 avx512f", "AMD EPYC with AVX-512"),
        ("fpu sse4_2 avx2", "AMD EPYC with AVX2"),
        ("fpu sse4_2", "AMD EPYC"),
    ],
)
def test_processors_of_one_name_are_told_apart(tmp_path, flags, expected):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nmodel name\t: AMD EPYC \nflags\t\t: {flags}\n")
    assert provenance.processor(cpuinfo) == expected


def test_a_system_without_such_a_list_still_has_a_processor(tmp_path):
    (tmp_path / "empty").touch()
    named = [provenance.processor(tmp_path / name) for name in ("missing", "empty")]
    assert all(isinstance(name, str) for name in named) and named[0] == named[1]
