"""A wrong checkpoint path is answered with the checkpoints that there are."""

import contextlib
import os
from pathlib import Path

import pytest

from systems.errors import InputError
from utils.checkpoint import Checkpoint
from utils.config import checkpoints_near

from .test_start import start


def stages(*paths):
    for path in map(Path, paths):
        path.mkdir(parents=True)
        (path / "config.json").touch()
        (path / "best.weights.h5").touch()


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory, two levels below one in which nothing else lies."""
    directory = tmp_path / "home" / "project"
    directory.mkdir(parents=True)
    monkeypatch.chdir(directory)
    return directory


PONG = "checkpoints/pong/lstm_84x84x1"
DEMO = "demo/checkpoints/freeway/lstm_84x84x1"


def near(path):
    return [str(found) for found in checkpoints_near(Path(path))]


def test_what_lies_below_train_dir_and_below_what_there_is_of_the_path(here):
    stages(f"{PONG}/paper_seq_1", f"{PONG}/paper_seq_3", f"{DEMO}/paper_seq_5_reward")
    everything = {f"{PONG}/paper_seq_1", f"{PONG}/paper_seq_3", f"{DEMO}/paper_seq_5_reward"}
    # A misspelt stage, the game's directory, that of the models: what is most alike comes first.
    assert near(f"{PONG}/paper_seq_33")[0] == f"{PONG}/paper_seq_3"
    assert set(near("checkpoints/pong")) == {f"{PONG}/paper_seq_1", f"{PONG}/paper_seq_3"}
    assert near("demo")[0] == f"{DEMO}/paper_seq_5_reward"
    # Nothing of this path is there but the working directory itself.
    assert set(near("nowhere/freeway/paper_seq_5_reward")) == everything
    assert near("nowhere/freeway/paper_seq_5_reward")[0] == f"{DEMO}/paper_seq_5_reward"


def test_absolute_paths_stay_absolute(here):
    stages(f"{DEMO}/paper_seq_1", "checkpoints/pong/lstm_84x84x1/paper_seq_1")
    found = near(here / DEMO / "paper_seq_2")
    assert found == [str(here / DEMO / "paper_seq_1"), f"{PONG}/paper_seq_1"]


def test_one_without_weights_is_none_and_its_siblings_are_named(here):
    stages(f"{PONG}/paper_seq_1")
    os.rename("checkpoints", "elsewhere")
    unfinished = Path("elsewhere/pong/lstm_84x84x1/paper_seq_3")
    unfinished.mkdir()
    (unfinished / "logs").mkdir()
    assert near(unfinished) == ["elsewhere/pong/lstm_84x84x1/paper_seq_1"]


def test_at_most_ten_are_named_and_hidden_directories_are_left_out(here):
    stages(*(f"{PONG}/stage_{i}" for i in range(15)), ".trash/paper_seq_1")
    found = near(f"{PONG}/stage_9x")
    assert len(found) == 10 and found[0] == f"{PONG}/stage_9"
    assert near("trash") and not [path for path in near("trash") if ".trash" in path]


def test_a_loop_of_links_ends(here):
    stages(f"{PONG}/paper_seq_1")
    (here / "checkpoints" / "loop").symlink_to(here / "checkpoints")
    assert near(f"{PONG}/paper_seq_2") == [f"{PONG}/paper_seq_1"]


@contextlib.contextmanager
def without_roots_rights():
    """As another user, because permissions stop root nowhere."""
    if os.geteuid():
        yield
        return
    try:
        os.seteuid(65534)
    except PermissionError:
        pytest.skip("this root may not become another user")
    try:
        yield
    finally:
        os.seteuid(0)


def test_directories_that_may_not_be_entered_are_passed_over(here):
    stages(f"{PONG}/paper_seq_1", f"{PONG}/theirs/paper_seq_1")
    theirs = here / PONG / "theirs"
    theirs.chmod(0)
    try:
        with without_roots_rights():
            with pytest.raises(PermissionError):
                (theirs / "config.json").is_file()
            assert near(f"{PONG}/paper_seq_2") == [f"{PONG}/paper_seq_1"]
    finally:
        theirs.chmod(0o700)


def test_the_message_names_them(here):
    with pytest.raises(
        InputError, match=r"no such directory. There are none below checkpoints or near"
    ):
        Checkpoint("nowhere")
    stages(f"{PONG}/paper_seq_1")
    with pytest.raises(InputError) as error:
        Checkpoint(PONG)
    assert str(error.value).endswith(
        f"received {PONG}: it has no config.json\n"
        f"The checkpoints that there are:\n  {PONG}/paper_seq_1"
    )
    # The weights themselves, as one may complete them in a shell.
    with pytest.raises(InputError, match=f"no such directory\nThe check.*\n  {PONG}/paper_seq_1$"):
        Checkpoint(f"{PONG}/paper_seq_1/best.weights.h5")
    # One that is there but damaged is its own matter.
    with pytest.raises(InputError) as error:
        Checkpoint(f"{PONG}/paper_seq_1")
    assert "that there are" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("script", ["evaluate.py", "generate_video.py", "plan.py", "play.py"])
def test_every_script_names_them(script, tmp_path):
    stages(tmp_path / "pong" / "paper_seq_1")
    more = ["--video=clip.gif"] if script == "generate_video.py" else []
    done = start(script, f"--checkpoint={tmp_path / 'pong' / 'paper_seq_2'}", *more)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert "The checkpoints that there are:" in lines
    assert f"  {tmp_path / 'pong' / 'paper_seq_1'}" in lines
    assert "Traceback" not in done.stderr
