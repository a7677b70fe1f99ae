"""What a variant's stages have reached, as `make demo` ends with it."""

import shlex
import shutil
import sys

import pytest

from systems.errors import InputError
from utils.checkpoint import Checkpoint
from utils.watching.summary import finished_stages, main, summary, to_go_on

from . import tiny  # noqa: F401 - makes the preset known
from .checkpoints import write_checkpoint
from .test_command_line import parsed


def results(*mse, reward=None):
    return {
        "horizons": {
            horizon: {"mse": value, "mse_repeat_last": 40.0}
            for horizon, value in zip(("1", "3", "5"), mse, strict=True)
        },
        "reward": {
            "average_precision_within": {
                "1": {"-1": None, "1": None},
                "5": {"-1": None, "1": reward},
                "10": {"-1": 0.25, "1": reward},
            }
        },
    }


@pytest.fixture
def trained(tmp_path):
    about = {"variant": "paper", "reward_weight": 0.0}
    one = write_checkpoint(
        tmp_path / "paper_seq_1", stage="paper_seq_1", results=results(2, 4, 8), decoded=10, **about
    )
    shutil.copytree(one, tmp_path / "paper_seq_3")
    write_checkpoint(
        tmp_path / "paper_seq_5",
        stage="paper_seq_5",
        results=results(2, 4, 6),
        seed=1,
        decoded=5,
        **about,
    )
    write_checkpoint(
        tmp_path / "paper_seq_5_reward",
        stage="paper_seq_5_reward",
        results=results(2, 4, 9, reward=0.5),
        seed=2,
        decoded=5,
        variant="paper",
    )
    return tmp_path


def test_each_stage_is_compared_with_the_one_before(trained):
    text = summary(finished_stages(trained)["paper"])
    rows = [line for line in text.splitlines() if line.startswith("paper_")]
    assert [row.split()[1:4] for row in rows] == [
        ["0.050", "0.100", "0.200"],
        ["0.050", "0.100", "0.200"],
        ["0.050", "0.100", "0.150"],
        ["0.050", "0.100", "0.225"],
    ]
    assert "nothing: it kept the weights of paper_seq_1" in rows[1]
    assert rows[2].endswith("-25% error at 5 steps")
    assert rows[3].endswith("+50% error at 5 steps; it learned reward and end")
    told = "+1 within 5 steps: 0.50, -1 within 10 steps: 0.25, +1 within 10 steps: 0.50"
    assert text.endswith(f"average precision of the reward's sign: {told}")


def test_the_commands_to_go_on_name_the_last_checkpoint(trained, monkeypatch):
    monkeypatch.chdir(trained)
    monkeypatch.setattr(sys, "executable", str(trained / ".venv" / "bin" / "python"))
    last = Checkpoint(trained / "paper_seq_5_reward")
    lines = to_go_on(last).splitlines()[1:]
    assert all(line.startswith("  .venv/bin/python ") for line in lines)
    assert [line.split()[1] for line in lines] == [
        "play.py",
        "generate_video.py",
        "evaluate.py",
        "plan.py",
    ]
    assert all(parsed(line.split()[1:]) for line in lines)
    assert "plan.py" not in to_go_on(Checkpoint(trained / "paper_seq_1"))
    # Paths that a shell would take apart.
    spaced = trained / "my runs" / "paper_seq_5_reward"
    spaced.parent.mkdir()
    spaced.symlink_to(trained / "paper_seq_5_reward")
    monkeypatch.setattr(sys, "executable", str(trained / "my runs" / "python"))
    for line in to_go_on(Checkpoint(spaced)).splitlines()[1:]:
        python, _, flag, directory, *_ = shlex.split(line)
        assert (python, flag, directory) == ("my runs/python", "--checkpoint", str(spaced))


def test_a_stage_that_was_stopped_while_its_data_were_recorded_does_not_count(trained):
    (trained / "compress_seq_1").mkdir()
    assert list(finished_stages(trained)) == ["paper"]


def test_a_directory_without_stages_is_refused(tmp_path, capsys):
    with pytest.raises(InputError, match="finished stages"):
        finished_stages(tmp_path)
    with pytest.raises(SystemExit) as end:
        main([str(tmp_path)])
    assert end.value.code == 2
