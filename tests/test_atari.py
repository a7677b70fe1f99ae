"""The emulator does what it says, measured against ALE itself."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from ale_py import ALEInterface, roms

from systems.atari import (
    POOLED_FRAMES,
    TWO_PLAYER_GAMES,
    AtariGame,
    Palette,
    default_pooled_frames,
    game_name,
    game_names,
)
from systems.errors import InputError
from systems.policies import PersistentPolicy


def random_actions(game: AtariGame, length: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(game.num_actions, size=length).tolist()


def play(game: AtariGame, actions: list[int]) -> list[tuple]:
    """Plays and returns everything that can be seen after each action, as comparable values."""
    seen = []
    for action in actions:
        observation, reward, terminated = game.step(action)
        seen.append(
            (
                observation.tobytes(),
                reward,
                terminated,
                game.truncated,
                game.screen_rgb().tobytes(),
                game.screen_grey().tobytes(),
            )
        )
    return seen


def bare_emulator(game: str, frame_skip: int) -> ALEInterface:
    """Returns ALE as it comes, without this project's wrapper."""
    ale = ALEInterface()
    ale.setFloat("repeat_action_probability", 0.0)
    ale.setInt("frame_skip", frame_skip)
    ale.loadROM(roms.get_rom_path(game))
    ale.reset_game()
    return ale


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ms_pacman", "ms_pacman"),
        ("ms_pacman.bin", "ms_pacman"),
        ("MsPacman", "ms_pacman"),
        ("ALE/MsPacman-v5", "ms_pacman"),
        ("Pitfall2", "pitfall2"),
        ("TicTacToe3D", "tic_tac_toe_3d"),
        ("UpNDown-v4", "up_n_down"),
        ("Breakout-v0", "breakout"),
        ("BreakoutNoFrameskip-v4", "breakout"),
        ("BreakoutDeterministic-v4", "breakout"),
    ],
)
def test_game_name_accepts_the_usual_spellings(name, expected):
    assert game_name(name) == expected


@pytest.mark.parametrize("name", ["Breakout-ram-v4", "Breakout-ramNoFrameskip-v4", "Pong-ram-v0"])
def test_a_game_that_observes_ram_is_refused(name):
    with pytest.raises(InputError, match=f"expected a game .*images, received '{name}'.*RAM"):
        game_name(name)


def test_pascal_case_name_of_every_game_is_known():
    for rom_id in set(roms.get_all_rom_ids()) - TWO_PLAYER_GAMES:
        assert game_name("ALE/" + rom_id.title().replace("_", "") + "-v5") == rom_id


def test_unknown_game_lists_the_closest_names():
    with pytest.raises(InputError, match=r"'freewey'.*did you mean.*freeway"):
        game_name("freewey")


@pytest.mark.parametrize("name", ["", "qqqqqqqq"])
def test_unlike_any_game_lists_all_that_can_be_played(name):
    with pytest.raises(InputError, match=r"adventure, .*zaxxon") as error:
        game_name(name)
    assert "combat" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "rom_id"),
    [
        ("combat", "combat"),
        ("Joust", "joust"),
        ("maze_craze.bin", "maze_craze"),
        ("ALE/Warlords-v5", "warlords"),
    ],
)
def test_two_player_games_are_refused_by_name(name, rom_id):
    with pytest.raises(InputError, match=f"{rom_id} needs two players"):
        AtariGame(name)


@pytest.mark.thorough
def test_every_single_player_game_plays_and_starts_over():
    games = sorted(set(roms.get_all_rom_ids()) - TWO_PLAYER_GAMES)
    assert len(games) == 104
    for name in games:
        game = AtariGame(name)
        first = game.screen()
        actions = random_actions(game, 6)
        seen = play(game, actions)
        assert first.shape == game.screen_shape and first.dtype == np.uint8, name
        assert game.num_actions == len(game.action_meanings) >= 2, name
        assert game.screen_rgb().shape == (*game.screen_shape, 3), name
        assert np.array_equal(game.reset(), first), name
        assert play(game, actions) == seen, name


@pytest.mark.parametrize("name", ["freeway", "ms_pacman", "mr_do"])
def test_a_step_is_four_frames_of_the_bare_emulator_and_shows_the_last_two(name):
    """Screens, colours and the reward of each action, against one-frame steps."""
    game, ale = AtariGame(name), bare_emulator(name, frame_skip=1)
    assert [action.name for action in ale.getMinimalActionSet()] == list(game.action_meanings)
    assert np.array_equal(game.screen(), ale.getScreen())
    total, pooled = 0.0, 0
    for number in random_actions(game, 200):
        action = ale.getMinimalActionSet()[number]
        expected_reward = sum(ale.act(action) for _ in range(3))
        grey, rgb = ale.getScreenGrayscale(), ale.getScreenRGB()
        expected_reward += ale.act(action)
        brighter = (grey > ale.getScreenGrayscale())[..., None]
        pooled += brighter.sum()
        observation, reward, terminated = game.step(number)
        assert np.array_equal(game.screen(), observation)
        assert np.array_equal(game.screen_rgb(), np.where(brighter, rgb, ale.getScreenRGB()))
        assert np.array_equal(game.screen_grey(), np.maximum(grey, ale.getScreenGrayscale()))
        assert (reward, terminated) == (expected_reward, False)
        total += reward
    assert pooled > 0
    assert total > 0 or name == "freeway"


@pytest.mark.parametrize(("pooled_frames", "frame_skip"), [(3, 4), (4, 4), (6, 4), (7, 2), (3, 1)])
def test_a_screen_is_the_brightest_of_as_many_frames_as_are_asked_for(pooled_frames, frame_skip):
    game = AtariGame("wizard_of_wor", frame_skip=frame_skip, pooled_frames=pooled_frames)
    ale = bare_emulator("wizard_of_wor", frame_skip=1)
    frames, changed = [ale.getScreenGrayscale()], 0
    for number in random_actions(game, 400 // frame_skip):
        for _ in range(frame_skip):
            ale.act(ale.getMinimalActionSet()[number])
            frames.append(ale.getScreenGrayscale())
        game.step(number)
        expected = np.max(frames[-pooled_frames:], axis=0)
        assert np.array_equal(game.screen_grey(), expected)
        changed += not np.array_equal(expected, np.max(frames[-2:], axis=0))
    assert changed > 20
    # The next episode's screens hold nothing of this one.
    fresh = AtariGame("wizard_of_wor", frame_skip=frame_skip, pooled_frames=pooled_frames)
    assert np.array_equal(game.reset(), fresh.screen())
    assert play(game, [0] * 3) == play(fresh, [0] * 3)


@pytest.mark.parametrize("no_ops", range(5))
def test_the_first_screens_lack_no_frame_that_they_combine(no_ops):
    game, ale = AtariGame("pong", pooled_frames=8), bare_emulator("pong", frame_skip=1)
    game.start(no_ops)
    game.step(0)
    frames = [ale.getScreenGrayscale()]
    for _ in range(no_ops + game.frame_skip):
        ale.act(ale.getMinimalActionSet()[0])
        frames.append(ale.getScreenGrayscale())
    assert np.array_equal(game.screen_grey(), np.max(frames[-8:], axis=0))


def test_pacmans_screens_show_all_four_ghosts():
    """Each is drawn in one frame of four, and a step has four frames: two show the same half."""

    def num_ghosts(game):
        red, green, blue = np.moveaxis(game.screen_rgb()[:200].astype(int), -1, 0)
        pink = (red > 200) & (green < 170) & (blue > 150)
        _, _, statistics, _ = cv2.connectedComponentsWithStats(pink.astype(np.uint8))
        return sum(80 <= area <= 120 for area in statistics[1:, cv2.CC_STAT_AREA])

    games = {number: AtariGame("pacman", pooled_frames=number) for number in (1, 2, 4)}
    games[None] = AtariGame("pacman")
    policy = PersistentPolicy(games[1], np.random.default_rng(3))
    for step in range(1, 79):
        action = policy.action()
        for game in games.values():
            game.step(action)
        if step >= 74:
            seen = {number: num_ghosts(game) for number, game in games.items()}
            assert seen == {1: 1, 2: 2, 4: 4, None: 4}


def test_games_that_need_more_pooled_frames_have_them_by_default():
    numbers = {name: default_pooled_frames(name) for name in game_names()}
    assert len(numbers) == 104
    for name in ("pong", *POOLED_FRAMES):
        assert AtariGame(name).pooled_frames == numbers[name]
    assert {name: number for name, number in numbers.items() if number != 2} == POOLED_FRAMES
    assert default_pooled_frames("ALE/WizardOfWor-v5") == POOLED_FRAMES["wizard_of_wor"] == 6


@pytest.mark.parametrize("number", [0, 9, -1])
def test_more_pooled_frames_than_two_steps_have_are_refused(number):
    with pytest.raises(InputError, match=f"1 to 8 emulated frames, received {number}; .*--pooled"):
        AtariGame("pacman", pooled_frames=number)


def test_what_is_drawn_in_every_other_frame_is_seen_in_each():
    """Ms. Pac-Man's ghosts are too many to be drawn at once."""
    game, ale = AtariGame("ms_pacman"), bare_emulator("ms_pacman", frame_skip=4)
    shown, drawn = [], []
    for _ in range(170):
        game.step(0)
        ale.act(ale.getMinimalActionSet()[0])
        shown.append(len(np.unique(game.screen()[:170])))
        drawn.append(len(np.unique(ale.getScreen()[:170])))
    # Most of the time one of the four ghosts is left out.
    assert set(shown[110:170]) == {8}
    assert drawn[110:170].count(7) > 40


def test_two_games_with_the_same_actions_are_the_same():
    one, other = AtariGame("space_invaders"), AtariGame("space_invaders")
    actions = random_actions(one, 150)
    assert play(one, actions) == play(other, actions)


def test_an_episode_does_not_depend_on_the_one_before():
    # ALE's own reset leaves traces of the last episode in Solaris's memory and on its screen.
    game = AtariGame("solaris")
    actions = random_actions(game, 30)
    first = play(game, actions)
    play(game, random_actions(game, 20, seed=1))
    game.reset()
    assert play(game, actions) == first


def test_end_of_a_game_is_seen_before_the_reset():
    game = AtariGame("ms_pacman")
    before_the_end = game.clone_state()
    for action in random_actions(game, 5000):
        _, _, terminated = game.step(action)
        assert terminated == game.terminated
        if terminated:
            break
    assert terminated and not game.truncated
    the_end = game.clone_state()
    with pytest.raises(RuntimeError, match="reset"):
        game.step(0)

    game.restore_state(before_the_end)
    assert not game.terminated
    game.step(0)

    game.restore_state(the_end)
    assert game.terminated and np.array_equal(game.screen(), the_end.screen)
    with pytest.raises(RuntimeError, match="reset"):
        game.step(0)

    game.reset()
    assert not game.terminated
    game.step(0)


def test_cut_off_is_told_apart_from_game_over():
    game = AtariGame("freeway", max_episode_frames=40)
    seen = play(game, [1] * 10)
    assert [truncated for _, _, _, truncated, *_ in seen] == [False] * 9 + [True]
    assert not game.terminated
    with pytest.raises(RuntimeError, match="reset"):
        game.step(1)
    game.reset()
    assert not game.truncated
    game.step(1)


@pytest.mark.parametrize("action", [-1, 3, 1000])
def test_action_out_of_range_is_refused(action):
    with pytest.raises(ValueError, match=rf"0\.\.2, received {action}"):
        AtariGame("freeway").step(action)


@pytest.mark.parametrize("name", ["ms_pacman", "kaboom", "klax", "pacman", "wizard_of_wor"])
def test_restored_state_is_a_perfect_copy(name):
    game = AtariGame(name)
    play(game, random_actions(game, 40))
    state = game.clone_state()
    screens = game.screen(), game.screen_rgb(), game.screen_grey()
    future = random_actions(game, 30, seed=1)
    expected = play(game, future)
    for detour_seed in (2, 3):
        play(game, random_actions(game, 25, seed=detour_seed))
        game.restore_state(state)
        for was, restored in zip(
            screens, (game.screen(), game.screen_rgb(), game.screen_grey()), strict=True
        ):
            assert np.array_equal(was, restored)
        assert play(game, future) == expected


def test_observations_belong_to_the_caller():
    game = AtariGame("freeway")
    observation, _, _ = game.step(1)
    expected = observation.copy()
    observation[:] = 0
    state = game.clone_state()
    game.screen()[:] = 0
    game.step(1)
    game.restore_state(state)
    assert np.array_equal(game.screen(), expected)


def test_palette_refuses_an_index_that_changes_its_colour():
    palette = Palette()
    frame = np.array([[2, 4]], np.uint8)
    rgb, grey = np.array([[[9, 8, 7], [6, 5, 4]]], np.uint8), np.array([[3, 1]], np.uint8)
    assert not palette.covers(frame)
    palette.learn(frame, rgb, grey)
    palette.learn(frame, rgb, grey)
    assert palette.covers(frame) and np.flatnonzero(palette.known).tolist() == [2, 4]
    assert np.array_equal(palette.rgb[frame], rgb) and np.array_equal(palette.grey[frame], grey)
    for changed in (
        (frame, rgb[:, ::-1], grey),  # both indices look otherwise than before
        (frame, rgb, grey + 1),
        (np.full_like(frame, 6), rgb, grey),  # one index, two colours in one frame
    ):
        with pytest.raises(RuntimeError, match="keep its colour"):
            palette.learn(*changed)
    assert np.array_equal(palette.rgb[frame], rgb)
