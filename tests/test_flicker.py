"""What flickers is found, and screens combine as many frames as the measurement says."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from systems import flicker
from systems.atari import POOLED_FRAMES, TWO_PLAYER_GAMES, default_pooled_frames, game_names
from systems.flicker import ALLOWED, flickering, main, needed, scan

GREY = np.arange(256, dtype=np.uint8)
FILE = Path(__file__).parents[1] / "docs/results/flicker.json"


def frames(draw, count=18):
    """Emulated frames, the newest first; `draw(frame, time)` paints each."""
    shown = np.full((count, 20, 40), 50, np.uint8)
    for time in range(count):
        draw(shown[count - 1 - time], time)
    return shown


@pytest.mark.parametrize("period", [2, 3, 4, 5, 6])
def test_an_object_that_is_drawn_in_one_frame_of_several_flickers(period):
    def draw(frame, time):
        if time % period == 0:
            frame[4:10, 6:12] = 200

    found, age, dark = flickering(frames(draw), GREY)
    expected = np.zeros((20, 40), bool)
    expected[4:10, 6:12] = True
    np.testing.assert_array_equal(found, expected * period)
    assert set(age[expected]) == {17 % period}
    assert not dark.any()


def test_what_moves_blinks_slowly_or_changes_its_colour_does_not_flicker():
    def draw(frame, time):
        frame[2:5, time : time + 8] = 200  # moves
        if time % 4 < 2:
            frame[8:12, 4:12] = 200  # stays for two frames
        frame[14:18, 4:12] = (100, 150, 200)[time % 3]  # changes its colour
        frame[14:18, 20:30] = 200 if time < 9 else 50  # disappears

    found, _, dark = flickering(frames(draw), GREY)
    assert not found.any() and not dark.any()


def test_a_dark_object_that_flickers_is_told_apart():
    def draw(frame, time):
        if time % 3 == 0:
            frame[4:10, 6:12] = 10

    found, _, dark = flickering(frames(draw), GREY)
    assert not found.any()
    assert dark[4:10, 6:12].all() and dark.sum() == 36


def test_as_few_frames_as_suffice_are_combined():
    assert needed({1: 1.0, 2: ALLOWED, 3: 0.0}) == 2
    assert needed({1: 0.0, 2: 0.0, 3: 0.0}) == 2
    assert needed({1: 1.0, 2: 0.5, 3: ALLOWED + 0.01, 4: 0.0}) == 4


def test_the_games_own_numbers_are_those_of_the_committed_scan():
    content = json.loads(FILE.read_text())
    numbers = {game: figures["pooled_frames"] for game, figures in content["games"].items()}
    assert list(numbers) == game_names()
    assert set(content["two_player_games_left_out"]) == TWO_PLAYER_GAMES
    assert {game: number for game, number in numbers.items() if number != 2} == POOLED_FRAMES
    for figures in content["games"].values():
        missing = {int(number): share for number, share in figures["missing"].items()}
        assert figures["pooled_frames"] == needed(missing)


@pytest.mark.parametrize("game", ["pacman", "wizard_of_wor", "freeway", "asteroids"])
def test_a_short_scan_finds_the_same_number(game):
    figures = scan(game, seed=1, num_steps=120)
    assert figures["pooled_frames"] == default_pooled_frames(game)
    # Asteroids are drawn in every other frame, and Freeway has nothing that flickers.
    assert figures["missing"][1] == 0 if game == "freeway" else figures["missing"][1] > 0.1


def test_the_command_writes_figures_and_a_picture(tmp_path, capsys):
    flags = ["--atari_game=Pacman", "--atari_game=freeway", "--num_steps=150"]
    main([*flags, f"--json={tmp_path / 'one.json'}", f"--picture={tmp_path / 'picture.png'}"])
    assert "all others: 1" in capsys.readouterr().out
    main([*flags, f"--json={tmp_path / 'two.json'}", "--num_workers=1"])
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert one == two and list(one["games"]) == ["freeway", "pacman"]
    picture = cv2.imread(str(tmp_path / "picture.png"))
    left, right = picture[:536, :646], picture[:536, 646:]
    pink = [((half[..., 2] > 200) & (half[..., 1] < 170)).sum() for half in (left, right)]
    assert pink[1] > pink[0] + 2 * 8 * 80  # two more ghosts, each pixel drawn as eight


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--atari_game=pacmann", "did you mean"),
        ("--atari_game=combat", "two players"),
        ("--json=missing/figures.json", "missing is none"),
    ],
)
def test_unusable_flags_are_refused(flag, message, capsys):
    with pytest.raises(SystemExit) as end:
        main([flag])
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_the_window_holds_three_of_the_longest_periods():
    assert frames(lambda *_: None).shape[0] == flicker._WINDOW
