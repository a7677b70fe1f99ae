"""How a training went, read from its TensorBoard logs and drawn."""

import itertools
import json
import time
from dataclasses import replace

import pytest

from benchmarks import curve, pages, plots
from systems.errors import InputError
from utils.watching.tensorboard import Logs

from .checkpoints import CONFIG


def errors(mse, repeat_last):
    return {
        f"error_at_step_{horizon}/{key}": value * horizon
        for horizon in curve.HORIZONS
        for key, value in (("mse", mse), ("mse_repeat_last", repeat_last), ("psnr", 9.0))
    }


@pytest.fixture
def stages(tmp_path, monkeypatch):
    """Two stages' logs: 5 minutes of pretraining and a minute of training, then two minutes."""
    now = [1e9]
    monkeypatch.setattr(time, "time", lambda: now[0])
    for stage in ("seq_1", "seq_3"):
        logs = Logs(tmp_path / f"paper_{stage}" / "logs")
        if stage == "seq_1":
            for step in (100, 200):
                now[0] += 150
                logs.scalars(step, {"pretraining_loss": 900.0 / step})
            at_the_end = errors(4.0, 8.0)
            logs.scalars(200, {f"pretraining/{tag}": value for tag, value in at_the_end.items()})
        now[0] += 60
        logs.scalars(20, {"loss": 1.0, **errors(1.0, 8.0)})
        logs.close()
        # The second one is still training.
        errors_at = {"1": {"mse": 1.0, "mse_repeat_last": 4.0}}
        results = {"horizons": errors_at, "num_windows": 32}
        config = replace(CONFIG, results=results if stage == "seq_1" else None)
        config.write(tmp_path / f"paper_{stage}")
        now[0] += 60
    return tmp_path


def test_the_curve_of_a_training(stages):
    found = curve.curve(stages)
    names = [stage["name"] for stage in found["stages"]]
    assert names == ["paper_seq_1", "paper_seq_3"]
    first, second = found["stages"]
    assert first["errors"] == {"1": 0.25} and second["errors"] == {}
    assert first["num_windows"] == 32 and first["minutes"] > 0
    # The first event of a file is its writer's own, of the real clock.
    assert second["ended"] - first["ended"] == pytest.approx(2)
    (early, _), (late, _) = found["loss"]
    assert [value for _, value in found["loss"]] == [9.0, 4.5]
    assert late - early == pytest.approx(2.5)
    for horizon in curve.HORIZONS:
        assert [ratio for _, ratio in found["errors"][str(horizon)]] == [0.5, 0.125, 0.125]


def test_a_stage_that_was_stopped_has_not_run_meanwhile():
    assert curve.run_seconds([[0.0, 60.0, 90.0], [1000.0, 1030.0]]) == 120


def test_the_curve_of_one_variant_where_both_lie(stages):
    other = stages / "compress_seq_1"
    logs = Logs(other / "logs")
    logs.scalars(100, {"pretraining_loss": 3.0})
    logs.close()
    replace(CONFIG, results=None).write(other)
    found = curve.curve(stages, "paper")
    assert [stage["name"] for stage in found["stages"]] == ["paper_seq_1", "paper_seq_3"]
    assert curve.curve(stages) == curve.curve(stages, "paper")
    found = curve.curve(stages, "compression")
    assert [stage["name"] for stage in found["stages"]] == ["compress_seq_1"]
    assert [value for _, value in found["loss"]] == [3.0]


def test_an_agent_beside_its_stage_is_no_stage(stages):
    logs = Logs(stages / "agent_paper_seq_3" / "logs")
    logs.scalars(1, {"agent/loss": 1.0})
    logs.close()
    names = [stage["name"] for stage in curve.curve(stages)["stages"]]
    assert names == ["paper_seq_1", "paper_seq_3"]


def test_errors_and_their_baselines_are_paired_by_step(tmp_path, monkeypatch):
    ticks = itertools.count()
    # Each value is written a third of a second after the one before, as on a slow disk.
    monkeypatch.setattr(time, "time", lambda: 1e9 + next(ticks) / 3)
    logs = Logs(tmp_path / "paper_seq_1" / "logs")
    for step in (20, 40):
        logs.scalars(step, errors(step / 20, 8.0))
    logs.scalars(60, errors(1.0, 0.0))  # still frames: nothing to compare with
    logs.close()
    horizons = {"1": {"mse": 1.0, "mse_repeat_last": 0.0}, "10": {"mse": 1.0, "mse_repeat_last": 4}}
    results = {"horizons": horizons, "num_windows": 32}
    replace(CONFIG, results=results).write(tmp_path / "paper_seq_1")
    found = curve.curve(tmp_path)
    for horizon in curve.HORIZONS:
        assert [ratio for _, ratio in found["errors"][str(horizon)]] == [0.125, 0.25]
    assert found["stages"][0]["errors"] == {"1": None, "10": 0.25}


def test_without_logs_there_is_no_curve(tmp_path):
    with pytest.raises(InputError, match="expected stages with logs in .*, found none"):
        curve.curve(tmp_path)


@pytest.mark.slow
def test_the_curve_is_drawn(stages, tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "RESULTS", tmp_path)
    assert plots.drawable() == ["errors.png"]  # from pretrained
    (tmp_path / "demo.json").write_text(json.dumps(curve.curve(stages)))
    assert plots.drawable() == ["errors.png", "demo.png"]
    plots.draw("demo.png", tmp_path / "demo.png")
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
