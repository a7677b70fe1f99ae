"""Where the time of a curriculum goes."""

import json
from itertools import chain

import pytest

from benchmarks import clock, pages, speed_tables
from systems.errors import InputError
from utils.checkpoint import Checkpoint

from .test_quality import in_tiny_process


@pytest.fixture
def time(monkeypatch):
    """A clock that stands still until it is moved on."""
    now = [0.0]
    monkeypatch.setattr(clock, "STARTED", 0.0)
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    return now


def test_a_part_of_a_curriculum_is_not_told_as_the_whole(monkeypatch, tmp_path):
    made = {"commit": "abc1234", "date": "2030-01-02", "machine": "an abacus"}
    rows = [{"stage": "seq_1", "seconds": {"pretraining": 60}}]
    (tmp_path / "clock.json").write_text(json.dumps({"made": made, "rows": rows}))
    monkeypatch.setattr(pages, "RESULTS", tmp_path)
    with pytest.raises(InputError, match=r"expected the stages seq_1, .* received seq_1\."):
        speed_tables.curriculum_time("clock")


def test_what_is_nested_counts_once(time):
    parts = clock.Clock()

    def work(seconds, inner=lambda: None):
        time[0] += seconds
        inner()
        time[0] += 1

    saves = parts.within("saving", work)
    time[0] += 4  # imports
    parts.within("training", work)(10, lambda: saves(2))
    parts.switch(clock.REST)
    assert parts.seconds == {clock.IMPORTS: 4, "training": 11, "saving": 3}


def test_only_the_first_step_on_new_windows_is_compilation(time):
    parts = clock.Clock()

    class Progress:
        shown = 0

        def on_train_batch_end(self, batch, logs=None):
            self.shown += 1

    def fit(model, windows, first, count, progress):
        for batch in range(count):
            time[0] += 20 if first + batch == 0 else 1
            progress.on_train_batch_end(batch)

    timed, windows, progress = parts.first_steps("training", fit), object(), Progress()
    timed(None, windows, 0, 3, progress)
    timed(None, windows, 3, 2, progress)
    timed(None, object(), 0, 1, progress)
    parts.switch(clock.REST)
    assert parts.seconds == {clock.IMPORTS: 0, clock.COMPILATION: 40, "training": 4}
    assert progress.shown == 6


@pytest.mark.thorough
def test_stages_are_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(clock, "in_new_process", in_tiny_process)
    # One that records and pretrains, and one that does neither.
    monkeypatch.setattr(clock, "STAGES", clock.STAGES[:2])
    more = {
        name: ["--batch_size=4", "--max_steps=3", f"--pretraining_steps={steps}"]
        for name, steps in zip(clock.STAGES, (8, 0), strict=True)
    }
    output = tmp_path / "clock.json"
    trained = tmp_path / "trained"
    settings = ("freeway", "paper", "tiny", "persistent", 200, output)
    rows = clock.measure(*settings, train_dir=trained, more=more)
    assert [row["stage"] for row in rows] == list(clock.STAGES)
    first, second = (row["seconds"] for row in rows)
    assert first.keys() == {*clock.PARTS, clock.IMPORTS, clock.COMPILATION, clock.REST}
    assert first.keys() == {*chain(*speed_tables.PARTS.values())}  # each has a column of its own
    assert all(seconds > 0 for row in rows for seconds in row["seconds"].values())
    once = {"recording", "controlled pixels", "pretraining", "handover"}
    assert not once & second.keys()
    written = json.loads(output.read_text())
    assert written["rows"] == rows and written["variant"] == "paper"
    assert Checkpoint(trained / "freeway" / "tiny" / "paper_seq_3").config.finished
    with pytest.raises(InputError, match=r"without trained stages.*paper_seq_1"):
        clock.measure(*settings, train_dir=trained)
