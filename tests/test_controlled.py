"""Controlled pixels: found by playing other actions in the real emulator."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from multiprocessing import Pipe
from pathlib import Path

import h5py
import numpy as np
import pytest

from systems.atari import AtariGame
from systems.controlled import controlled_bits, find_controlled, main
from systems.controlled_futures import controlled_pixels
from systems.dataset import CONTROLLED, Dataset
from systems.errors import InputError
from systems.files import PARTIAL
from systems.policies import PersistentPolicy
from systems.record import record
from systems.replay import why_not_replayable
from systems.windows import Windows, WindowSpec

from .interrupts import heed_interrupts, wait_until

pytestmark = pytest.mark.slow

SHAPES = [(84, 84, 1), pytest.param((210, 160, 3), marks=pytest.mark.thorough)]

ROOT = Path(__file__).parents[1]


@pytest.fixture
def directory(tmp_path):
    return record("freeway", "persistent", 200, 1, tmp_path, progress=False)


def pixels_of(directory):
    """Of the first episode, bool (T + 1, 210, 160)."""
    with h5py.File(directory / CONTROLLED) as file:
        return np.unpackbits(file["episode_0"][:], axis=2).astype(bool)


def partials_in(directory):
    return list(directory.glob(f"{PARTIAL}*"))


def start(directory, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "systems.controlled", f"--dataset={directory}"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        start_new_session=True,
        **options,
    )


def screens_under(actions, no_ops):
    game = AtariGame("freeway")
    game.start(no_ops)
    return [game.screen()] + [game.step(int(action))[0] for action in actions]


def test_a_pixel_counts_if_another_action_from_the_last_ten_steps_on_changes_it(directory):
    find_controlled(directory, progress=False)
    found = pixels_of(directory)
    recorded, no_ops = Dataset(directory).actions[0], Dataset(directory).no_ops[0]
    assert found.shape == (201, 210, 160) and not found[0].any()
    # Other actions begin every five steps; of Freeway's three, both others are tried.
    for frame, starts in ((5, [0]), (57, [50, 55]), (60, [50, 55]), (200, [190, 195])):
        truth = screens_under(recorded[:frame], no_ops)[-1]
        expected = np.zeros_like(found[0])
        for begin in starts:
            for other in {0, 1, 2} - {recorded[begin]}:
                actions = [*recorded[:begin], *[other] * (frame - begin)]
                expected |= screens_under(actions, no_ops)[-1] != truth
        np.testing.assert_array_equal(found[frame], expected)
    assert found[[5, 60, 200]].any(axis=(1, 2)).any()


def test_the_player_of_freeway_decides_the_chickens_columns_alone(directory):
    found = pixels_of(find_controlled(directory, progress=False).parent)
    # The cars neither wait for the chicken nor flee it; the score stands in other rows.
    columns = np.flatnonzero(found[:, 25:].any(axis=(0, 1)))
    assert 42 < columns.min() < columns.max() < 54


@pytest.mark.thorough
def test_a_game_over_in_one_future_leaves_the_others_and_the_recording_as_they_are(tmp_path):
    directory = record("ms_pacman", "random", 900, 1, tmp_path, progress=False)
    find_controlled(directory, num_workers=1, progress=False)
    with h5py.File(directory / CONTROLLED) as file:
        shares = [np.unpackbits(file[name][:]).mean() for name in file]
    assert len(shares) > 1 and all(0.001 < share < 0.2 for share in shares[:-1])  # one is cut
    (directory / CONTROLLED).unlink()
    find_controlled(directory, num_workers=3, progress=False)
    with h5py.File(directory / CONTROLLED) as file:
        again = [np.unpackbits(file[name][:]).mean() for name in file]
    assert shares == again
    before = (directory / CONTROLLED).stat().st_mtime_ns
    find_controlled(directory, progress=False)
    assert (directory / CONTROLLED).stat().st_mtime_ns == before


@pytest.mark.parametrize("shape", SHAPES)
def test_windows_tell_of_the_frames_they_yield(directory, shape):
    find_controlled(directory, progress=False)
    found = pixels_of(directory)
    spec = WindowSpec(10, 8, shown=3, controlled=True)
    windows = Windows(Dataset(directory), shape, spec, 4, 0)
    batch = windows.batch(2)
    assert batch["controlled"].shape == (4, 3, *shape[:2])
    assert batch["controlled"].dtype == np.uint8
    for number, steps, controlled in zip(
        windows.numbers(2), batch["steps"], batch["controlled"], strict=True
    ):
        _, first = windows.position(number)
        truth = found[first + 10 + steps]
        np.testing.assert_allclose(
            controlled.mean(axis=(1, 2)), 255 * truth.mean(axis=(1, 2)), atol=0.05
        )
        if shape == (210, 160, 3):
            np.testing.assert_array_equal(controlled, 255 * truth)
    assert batch["controlled"].any()


def test_a_worker_whose_parent_has_gone_away_does_not_play_to_the_end():
    connection, parents_end = Pipe()
    parents_end.close()
    with pytest.raises(EOFError):
        controlled_bits(AtariGame("freeway"), np.zeros(2000, int), connection)


def test_data_that_cannot_be_played_again_is_refused(directory, capsys):
    path = directory / "metadata.json"
    metadata = json.loads(path.read_text())
    for change, expected in (
        # Another frame skip leads elsewhere, which the last frame shows.
        ({"frame_skip": 2}, "to lead to its last frame, but they do not"),
        ({"max_episode_frames": 100}, "to lead to its last frame, but they do not"),
        ({"repeat_action_probability": 0.25}, "repeat_action_probability is 0.25"),
        ({"action_meanings": ["NOOP", "UP", "FIRE"]}, "its actions are not those of the game"),
    ):
        path.write_text(json.dumps({**metadata, **change}))
        with pytest.raises(SystemExit) as error:
            main([f"--dataset={directory}"])
        assert error.value.code == 2
        errors = capsys.readouterr().err
        assert expected in errors and "--control_weight=0" in errors
        assert not (directory / CONTROLLED).exists() and not partials_in(directory)
    del metadata["max_episode_frames"]
    path.write_text(json.dumps(metadata))
    with pytest.raises(InputError, match="has no max_episode_frames"):
        find_controlled(directory)
    with pytest.raises(InputError, match="python -m systems.record"):
        find_controlled(directory.parent.parent)


def test_a_data_sets_parent_directory_will_do(directory):
    assert find_controlled(directory.parent) == directory.resolve() / CONTROLLED


def test_a_full_disk_is_exit_code_2_and_leaves_nothing(directory):
    process = start(
        directory, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
    )
    _, errors = process.communicate()
    assert process.returncode == 2
    assert b"the system says: File too large." in errors and b"Traceback" not in errors
    assert b"--control_weight=0" in errors
    assert not (directory / CONTROLLED).exists() and not partials_in(directory)


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(None, marks=pytest.mark.thorough),
        2,
        pytest.param(5, marks=pytest.mark.thorough),
    ],
)
def test_data_of_any_number_of_pooled_frames_are_played_again(tmp_path, number):
    """Wizard of Wor's own is 6, so futures also show frames of the step before them."""
    game, policy = "wizard_of_wor", "persistent"
    directory = record(game, policy, 200, 1, tmp_path, progress=False, pooled_frames=number)
    find_controlled(directory, progress=False)  # refuses other frames than the recorded ones
    dataset = Dataset(directory)
    assert dataset.pooled_frames == (number or 6)
    with h5py.File(directory / CONTROLLED) as file:
        found = np.unpackbits(file["episode_0"][:], axis=2)[:, :, :160].astype(bool)
    assert found.shape[1:] == dataset.frame_shape and found.any()
    far = controlled_pixels(dataset, [(0, 140)], 10, [3, 20], (210, 160, 3))
    assert far is not None and far.any()
    dataset.metadata["pooled_frames"] = 9
    assert controlled_pixels(dataset, [(0, 140)], 10, [3, 20], (210, 160, 3)) is None


@pytest.mark.parametrize(
    "with_signal", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.thorough)]
)
def test_what_is_stopped_leaves_nothing_under_its_name_and_can_be_repeated(tmp_path, with_signal):
    directory = record("freeway", "random", 1000, 1, tmp_path, progress=False)
    process = start(directory, preexec_fn=heed_interrupts)
    wait_until(lambda: list(directory.glob(f"{PARTIAL}*/{CONTROLLED}")), process)
    os.killpg(process.pid, with_signal)
    process.communicate()  # returns when the workers, who share stderr, have ended too
    assert process.returncode == {signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: 130}[with_signal]
    assert not (directory / CONTROLLED).exists()
    find_controlled(directory, progress=False)
    assert pixels_of(directory).any()
    assert not partials_in(directory)


@pytest.mark.parametrize("shape", SHAPES)
def test_pixels_far_ahead_are_those_that_differ_under_other_actions(directory, shape):
    dataset = Dataset(directory)
    starts, horizons = [(0, 90), (0, 20)], [1, 12]
    controlled = controlled_pixels(dataset, starts, 10, horizons, shape)
    assert controlled.shape == (2, 2, *shape[:2]) and controlled.dtype == bool
    for (episode, first), found in zip(starts, controlled, strict=True):
        now = first + 9
        expected = np.zeros_like(found)
        for future in range(4):
            game = AtariGame("freeway")
            game.start(dataset.no_ops[episode])
            for action in dataset.actions[episode][:now]:
                game.step(int(action))
            policy = PersistentPolicy(game, np.random.default_rng([0, episode, first, future]))
            screens = [game.step(policy.action())[0] for _ in range(horizons[-1])]
            for i, horizon in enumerate(horizons):
                played = dataset.fit(screens[horizon - 1][None], shape)[0]
                recorded = dataset.read(episode, now + horizon, 1, shape)["frames"][0]
                differs = played != recorded
                expected[i] |= differs if differs.ndim == 2 else differs.any(axis=-1)
        np.testing.assert_array_equal(found, expected)
    assert controlled[:, 1].any(axis=(1, 2)).all()


def test_after_the_end_of_a_future_its_last_screen_stays(tmp_path):
    """A recording that is cut at its end: the futures end where it does."""
    directory = record("ms_pacman", "random", 300, 1, tmp_path, progress=False)
    dataset = Dataset(directory)
    dataset.metadata["max_episode_frames"] = dataset.no_ops[0] + 4 * 290
    controlled = controlled_pixels(dataset, [(0, 270)], 10, [5, 15, 21], (210, 160, 3))
    game = AtariGame("ms_pacman")
    game.start(dataset.no_ops[0])
    for action in dataset.actions[0][:279]:
        game.step(int(action))
    differs = np.zeros((2, 210, 160), bool)
    for future in range(4):
        moment = game.clone_state()
        policy = PersistentPolicy(game, np.random.default_rng([0, 0, 270, future]))
        for _ in range(11):
            screen, _, _ = game.step(policy.action())
        for i, horizon in enumerate((15, 21)):
            recorded = dataset.read(0, 279 + horizon, 1, (210, 160, 3))["frames"][0]
            differs[i] |= screen != recorded
        game.restore_state(moment)
    np.testing.assert_array_equal(controlled[0, 1:], differs)


def test_data_that_cannot_be_replayed_have_no_pixels_far_ahead(directory):
    dataset = Dataset(directory)
    other = dataset.metadata | {"repeat_action_probability": 0.25}
    assert why_not_replayable(dataset.metadata, dataset.frame_shape) is None
    assert "0.25" in why_not_replayable(other, dataset.frame_shape)
    assert "not palette indices" in why_not_replayable(dataset.metadata, (210, 160, 3))
    dataset.metadata["frame_skip"] = 2  # which leads to other frames
    assert controlled_pixels(dataset, [(0, 20)], 10, [1], (84, 84, 1)) is None
    dataset.metadata = other
    assert controlled_pixels(dataset, [(0, 20)], 10, [1], (84, 84, 1)) is None
