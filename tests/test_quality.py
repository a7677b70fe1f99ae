"""The head-to-head with peers: its clock, its table, its flags, and a tiny one in whole."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks import child, pages, quality, quality_table
from benchmarks.__main__ import main
from systems.errors import InputError

from . import tiny  # noqa: F401 - makes the preset known

ROOT = Path(__file__).parents[1]


def epochs(*pairs, beside=5.0):
    return {
        "seconds": beside + sum(steps * each for steps, each in pairs),
        "epochs": [list(pair) for pair in pairs],
    }


def test_lengths_are_scaled_to_fill_the_time():
    lengths = [quality.Length("a", 100, 1000), quality.Length("b", 50)]
    # Pretraining: three in four steps take 0.1 s, the others 0.3 s: 150 s in all. Then 20 and 25.
    pace = [epochs((36, 0.1), (12, 0.3), (12, 0.2)), epochs((12, 0.5))]
    assert quality.scale_to(205, lengths, pace) == pytest.approx(1)
    assert quality.scale_to(107.5, lengths, pace) == pytest.approx(0.5)
    assert quality.scale_to(3, lengths, pace) == 0
    assert quality.scale_to(30, lengths[1:], pace[1:]) == pytest.approx(1)


def test_the_default_training_is_that_of_the_scripts():
    from paper_seq_1_train import STAGE as FIRST
    from paper_seq_5_train import STAGE as LAST

    first, *_, last = quality.STAGED["ours"]
    assert (first.pretraining_steps, first.max_steps) == (FIRST.pretraining_steps, FIRST.max_steps)
    assert last.max_steps == LAST.max_steps and not last.flags
    assert not any(length.pretraining_steps for length in quality.STAGED["2016"])


def result(game, model, **ratios):
    horizons = {
        horizon: {"ratio": ratios.get("ratio", 0.5), "ratio_controlled": 0.9, "ratio_recall": 0.7}
        for horizon in ("1", "5", "10", "30")
    }
    horizons["5"]["ratio_controlled"] = ratios.get("controlled", 0.9)
    return {
        "game": game,
        "model": model,
        "settings": {"num_training_frames": 30000},
        "seconds": 1230.0,
        "steps": 4321,
        "parameters": 67_353_670,
        "multiplications": 199_534_592,
        "horizons": horizons,
    }


def test_the_table_marks_what_is_best_whoever_it_is(monkeypatch, tmp_path):
    rows = [
        result("pong", "rssm", controlled=0.25),
        result("pong", "ours", ratio=0.125),
        result("ms_pacman", "oh", controlled=None),
    ]
    made = {"commit": "abc1234", "date": "2030-01-02", "machine": "an abacus"}
    (tmp_path / "peers_quality.json").write_text(json.dumps({"made": made, "rows": rows}))
    monkeypatch.setattr(pages, "RESULTS", tmp_path)
    _, _, ours, rssm, oh, _, source = quality_table.quality().splitlines()
    assert ours == (
        "| Pong: ours | 67.4 million | 200 million | 20.5 | 4,321 | **0.125** | **0.125** | "
        "**0.125** | **0.125** | 0.900 | **0.700** |"
    )
    assert rssm.endswith("| 0.500 | 0.500 | 0.500 | 0.500 | **0.250** | **0.700** |")
    assert "| **0.500** | - | **0.700** |" in oh
    assert "`peers_quality.json` (commit abc1234, 2030-01-02, machine an abacus)" in source
    assert "30,000 frames" in source


def test_rows_of_other_settings_or_machines_do_not_stand_beside_new_ones():
    known = {"game": "pong", "settings": {"minutes": 8}, "machine": "an abacus"}
    older = {"game": "pong", "settings": {"minutes": 8}, "model": "oh"}
    rows = [
        {**known, "model": "ours"},
        older,
        {**known, "settings": {"minutes": 20}, "model": "2016"},
        {**known, "machine": "a slide rule", "model": "rssm"},
        {"game": "freeway", "settings": {"minutes": 20}, "model": "ours"},
    ]
    assert quality.comparable(rows, known) == [rows[0], older, rows[4]]


def test_what_is_said_of_rows_names_all_their_commits():
    rows = [
        {"commit": None, "machine": "b"},
        {"commit": "abc1234", "machine": "a"},
        {"commit": "0"},
    ]
    told = quality.about(rows)
    assert (told["commit"], told["machine"]) == ("0, abc1234", "a, b")
    # Outside Git there are none.
    assert quality.about([{"commit": None}])["commit"] is None


@pytest.mark.parametrize(
    "flags, expected",
    [
        (["--minutes=3"], "expected --only=quality beside --minutes"),
        (["--only=quality", "--json=/no/such/file.json"], "expected a directory"),
        (["--only=quality", "--atari_game=no_such_game"], "no_such_game"),
        (["--only=quality", "--minutes=0"], "expected a number above 0"),
        (["--only=clock", "--num_frames=20000"], "expected no --num_frames beside --only=clock"),
    ],
)
def test_wrong_flags_are_refused_at_once(flags, expected, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks", *flags])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert expected in capsys.readouterr().err


def test_another_file_is_not_overwritten(tmp_path):
    path = tmp_path / "other.json"
    path.write_text('{"horizons": {}}')
    with pytest.raises(InputError, match="another one"):
        quality.measure(["pong"], None, path)
    assert path.read_text() == '{"horizons": {}}'


def in_tiny_process(function, **arguments):
    """As `in_new_process`, in a process that knows the preset "tiny"."""
    run = "runpy.run_module('benchmarks.child', run_name='__main__', alter_sys=True)"
    begin = "import runpy; from utils.start import *; prepare(); import_keras(); import tests.tiny"
    command = [sys.executable, "-c", f"{begin}; {run}", function]
    done = subprocess.run(
        [*command, json.dumps(arguments)], cwd=ROOT, capture_output=True, text=True
    )
    assert not done.returncode, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("torch"), reason="the command needs PyTorch, too")
def test_all_models_are_trained_and_scored_on_the_same_windows(tmp_path, monkeypatch):
    monkeypatch.setattr(quality, "in_new_process", in_tiny_process)
    # One stage of each, because every one starts a process.
    ours = (quality.Length("paper_seq_1", 6, 8),)
    theirs = (quality.STAGED["2016"][0],)
    monkeypatch.setattr(quality, "STAGED", {"ours": ours, "2016": theirs})
    others = quality.OTHERS
    sizes = {"depth": 4, "units": 16, "hidden": 16, "latents": 4, "classes": 4}
    settings = quality.Settings(
        "freeway", 200, 0.05, tmp_path, "tiny", 4, "persistent", num_windows=8, rssm=sizes
    )
    output = tmp_path / "results.json"
    rows = quality.measure(["freeway"], lambda game: settings, output)
    assert [row["model"] for row in rows] == ["ours", "2016", *others]
    written = json.loads(output.read_text())
    assert written["rows"] == json.loads(json.dumps(rows))
    assert written["made"]["seeds"] == {"training": 1, "test": 3, "weights": 0}
    baselines = {row["horizons"]["10"]["mse_recall"] for row in rows}
    assert len(baselines) == 1  # all were scored on the same windows
    assert len({row["horizons"]["10"]["mse"] for row in rows}) == len(rows)
    by_model = {row["model"]: row for row in rows}
    # No time is left beside the processes' own, so each phase has the one step that it needs.
    assert by_model["ours"]["lengths"] == [["paper_seq_1", 4, 1]]
    assert by_model["ours"]["steps"] == 5 and by_model["2016"]["steps"] == 1
    for row in rows:
        assert row["steps"] > 0 and row["parameters"] > 0 and row["multiplications"] > 0
        assert row["horizons"]["5"]["ratio_shuffled"] is not None
        # A step more than the others have, at most.
        if row["model"] in others:
            assert by_model["ours"]["seconds"] <= row["seconds"] < by_model["ours"]["seconds"] + 60
    monkeypatch.setattr(pages, "RESULTS", tmp_path)
    output.rename(tmp_path / "peers_quality.json")
    assert "freeway: ours" in quality_table.quality()
    # What is there already is not measured again.
    monkeypatch.setattr(quality, "in_new_process", None)
    again = quality.measure(["freeway"], lambda game: settings, tmp_path / "peers_quality.json")
    assert again == written["rows"]


def test_a_child_that_fails_says_why(capfd):
    with pytest.raises(subprocess.CalledProcessError):
        child.in_new_process("quality_child.export", checkpoint="/no/such")
    assert "export() missing" in capfd.readouterr().err
