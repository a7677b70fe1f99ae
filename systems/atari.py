"""The emulated Atari 2600: names of games, options, screens and states.

This is the only module that imports `ale_py`, the Arcade Learning Environment (ALE,
https://github.com/Farama-Foundation/Arcade-Learning-Environment).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ale_py import Action, ALEInterface, ALEState, LoggerMode, roms

from systems.errors import InputError
from systems.images import resize
from systems.palette import Palette

# ALE ends the whole process, without an exception, when one of these is loaded.
TWO_PLAYER_GAMES = frozenset({"combat", "joust", "maze_craze", "warlords"})

FRAME_SKIP = 4  # default number of emulated frames for which an action is held

# How many emulated frames a screen combines by default: two, but for the games below, which draw
# some objects in fewer than every other frame. `python -m systems.flicker` has measured them.
USUAL_POOLED_FRAMES = 2
POOLED_FRAMES = {"adventure": 3, "othello": 3, "pacman": 4, "wizard_of_wor": 6}
MAX_POOLED_FRAMES = 8  # those of two steps; more would smear whatever moves

MAX_NO_OPS = 30  # emulated frames of nothing at an episode's start, as Mnih et al. 2015 have it

# The palette check compares whole RGB frames, so only one frame in this many is checked.
_PALETTE_CHECK_INTERVAL = 256


def game_name(name: str) -> str:
    """Returns a game's canonical name, the snake_case name of its ROM.

    Args:
        name: the game as a user writes it: "ms_pacman", "ms_pacman.bin", "MsPacman",
            "ALE/MsPacman-v5" and "MsPacmanNoFrameskip-v4" are the same game.

    Raises:
        InputError: for an unknown game, one whose observations are RAM, and for the four that need
            two players.
    """
    if re.search(r"-ram(NoFrameskip|Deterministic)?-v\d+$", name.strip()):
        raise InputError(
            f"expected a game whose observations are images, received {name!r}, whose observations "
            "are RAM; choose the one without -ram"
        )
    rom_ids = {_letters(rom_id): rom_id for rom_id in roms.get_all_rom_ids()}
    letters = _letters(re.sub(r"^ALE/|\.bin$|(NoFrameskip|Deterministic)?-v\d+$", "", name.strip()))
    game = rom_ids.get(letters)
    if game is None:
        similar = [rom_ids[match] for match in difflib.get_close_matches(letters, rom_ids, n=5)]
        choices = similar or game_names()
        raise InputError(
            f"expected the name of an Atari game, received {name!r}; "
            f"{'did you mean' if similar else 'choose one of'}: {', '.join(choices)}"
        )
    if game in TWO_PLAYER_GAMES:
        raise InputError(
            f"expected a game for one player, received {name!r}: {game} needs two players, "
            f"as do {', '.join(sorted(TWO_PLAYER_GAMES - {game}))}; choose another game"
        )
    return game


def is_atari(name: str) -> bool:
    """Returns whether this is a game that `game_name` knows."""
    try:
        return bool(game_name(name))
    except InputError:
        return False


def default_pooled_frames(game: str) -> int:
    """Returns how many emulated frames a game's screens combine unless told otherwise.

    Args:
        game: any name that `game_name` knows.

    Raises:
        InputError: there is no such game.
    """
    return POOLED_FRAMES.get(game_name(game), USUAL_POOLED_FRAMES)


def game_names() -> list[str]:
    """Returns the canonical names of the games that can be played, in alphabetical order."""
    return sorted(set(roms.get_all_rom_ids()) - TWO_PLAYER_GAMES)


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


class Moment(NamedTuple):
    """A moment of a game, from which `AtariGame` can go on any number of times.

    Attributes:
        emulator: the emulator's state.
        screen: [H, W] uint8 palette indices, what the screen shows.
        earlier: emulated frames that later screens will also show, [H, W] uint8 each, oldest first.
    """

    emulator: ALEState
    screen: np.ndarray
    earlier: tuple[np.ndarray, ...] = ()


class AtariGame:
    """One Atari 2600 game, played one action at a time.

    A new game is at the start of an episode. The emulator draws nothing at random, so two episodes
    that start with as many no-ops and go on with the same actions are the same.

    The screen after an action combines the last emulated frames, also of the action before where
    they are more than `frame_skip`. Each pixel is the brightest of them, as in Mnih et al. 2015
    (Nature 518, Methods), because the console can draw only a few moving objects at once. Games
    with more objects draw each in every other frame, and some draw each in fewer.

    Args:
        game: any name that `game_name` knows.
        frame_skip: emulated frames (60 a second) for which each action is held.
        max_episode_frames: emulated frames after which an episode is cut off.
        pooled_frames: emulated frames that a screen combines, from 1 to 8. None: as many as the
            game needs, see `default_pooled_frames`.
        mode, difficulty: of the game; 0 is its own default in nearly all games.

    Attributes:
        name: the canonical name of the game.
        action_meanings: names of the actions that do something here, such as ("NOOP", "UP").
        num_actions: how many there are.
        screen_shape: (height, width) of a screen in pixels; (210, 160) in most games.
        palette: the colours seen so far.
        frame_skip: as given.
        max_episode_frames: as given.
        repeat_action_probability: how often the emulator repeats the action before instead.
        pooled_frames: emulated frames that a screen combines.
        mode, difficulty: as given.
        no_ops: emulated frames of nothing with which the episode began.

    Raises:
        InputError: the game cannot be played, see `game_name`, it has no such mode or difficulty,
            or `pooled_frames` is out of range.
    """

    # ALE's default is 0.25 ("sticky actions"). The recorded action would then not be the one that
    # was played.
    repeat_action_probability = 0.0
    first_action, package = 0, "ale-py"  # for data sets: the first action's number; what played

    def __init__(
        self,
        game: str,
        frame_skip: int = FRAME_SKIP,
        max_episode_frames: int = 108_000,
        pooled_frames: int | None = None,
        mode: int = 0,
        difficulty: int = 0,
    ) -> None:
        self.name = game_name(game)
        if pooled_frames is None:
            pooled_frames = default_pooled_frames(self.name)
        if not 1 <= pooled_frames <= MAX_POOLED_FRAMES:
            raise InputError(
                f"expected a screen to combine 1 to {MAX_POOLED_FRAMES} emulated frames, received "
                f"{pooled_frames}; choose another number (--pooled_frames)"
            )
        self.pooled_frames = pooled_frames
        self.frame_skip = frame_skip
        self.max_episode_frames = max_episode_frames
        ALEInterface.setLoggerMode(LoggerMode.Error)
        self._ale = ale = ALEInterface()
        # All options come before loadROM, because it reads them. The default, -1, would seed with
        # the time of day. Without sticky actions no game depends on the seed.
        ale.setInt("random_seed", 0)
        ale.setFloat("repeat_action_probability", self.repeat_action_probability)
        # One, because a screen combines several emulated frames: `step` repeats the action itself.
        ale.setInt("frame_skip", 1)
        # The default is no limit, and some games can be played badly for ever.
        ale.setInt("max_num_frames_per_episode", max_episode_frames)
        ale.setInt("max_num_frames", 0)  # of all episodes: a limit would end a long recording
        ale.setBool("truncate_on_loss_of_life", False)  # an episode is a whole game
        ale.setBool("color_averaging", False)  # an average of two frames has no palette index
        ale.setBool("display_screen", False)
        ale.setBool("sound", False)
        ale.loadROM(roms.get_rom_path(self.name))
        self.mode, self.difficulty = mode, difficulty
        if mode:
            _require("mode", mode, self.name, ale.getAvailableModes())
            ale.setMode(mode)
        if difficulty:
            _require("difficulty", difficulty, self.name, ale.getAvailableDifficulties())
            ale.setDifficulty(difficulty)
        ale.reset_game()  # which is when they take effect

        self._actions = ale.getMinimalActionSet()
        self.action_meanings = tuple(action.name for action in self._actions)
        self.num_actions = len(self._actions)
        self.screen_shape: tuple[int, int] = ale.getScreenDims()
        self.palette = Palette()
        self._num_screens = 0
        self._loaded_state = ale.cloneState(include_rng=True)
        self.reset()

    def reset(self, seed: int | None = None) -> np.ndarray:
        """Starts an episode and returns its first screen, [H, W] uint8 palette indices.

        Args:
            seed: of the number of no-ops, from 1 to `MAX_NO_OPS`. None: there are none, and every
                episode starts from the same state.
        """
        if seed is None:
            return self.start(0)
        # Not by a `Generator`, whose draws another version of NumPy may change.
        return self.start(1 + int(np.random.SeedSequence(seed).generate_state(1)[0]) % MAX_NO_OPS)

    def start(self, no_ops: int) -> np.ndarray:
        """Starts an episode as `reset` does, after a given number of no-ops."""
        # reset_game alone leaves parts of the last episode in the memory of a dozen games,
        # Solaris among them.
        self._ale.restoreState(self._loaded_state)
        self._ale.reset_game()
        frames = [self._read_screen()]
        for _ in range(no_ops):
            self._ale.act(Action.NOOP)
            frames.append(self._read_screen())
        self.no_ops = no_ops
        later = max(self.pooled_frames - self.frame_skip, 0)
        self._earlier = tuple(frames[-later:] if later else ())
        self._screen = self._brightest(frames[-self.pooled_frames :])
        return self.screen()

    def step(self, action: int) -> tuple[np.ndarray, float, bool]:
        """Plays one action.

        Args:
            action: an index into `action_meanings`.

        Returns:
            Observation: the screen after the action, [H, W] uint8 palette indices.
            Reward: points of the game's score.
            Termination: whether the game is over.

        Raises:
            ValueError: there is no such action.
            RuntimeError: the episode has ended.
        """
        if not 0 <= action < self.num_actions:
            raise ValueError(f"expected an action in 0..{self.num_actions - 1}, received {action}")
        if self.terminated or self.truncated:
            raise RuntimeError("the episode has ended; call reset() before the next step()")
        action = self._actions[action]
        unseen = max(self.frame_skip - self.pooled_frames, 0)
        reward = self._hold(action, unseen)
        frames = list(self._earlier)
        for _ in range(unseen, self.frame_skip):
            reward += self._ale.act(action)
            frames.append(self._read_screen())
        if self.pooled_frames > self.frame_skip:
            self._earlier = tuple(frames[self.frame_skip - self.pooled_frames :])
        # The screen is kept because ALE goes on showing the old one after restoreState.
        self._screen = self._brightest(frames)
        return self.screen(), reward, self.terminated

    def _brightest(self, frames):
        """Returns each pixel's brightest value in some frames, the newest one among equals."""
        *before, newest = frames
        if self._earlier:
            newest = newest.copy()  # because the next screens show it too
        for frame in reversed(before):
            # Few pixels differ: those of objects that move or are not drawn in every frame.
            differs = np.flatnonzero(frame != newest)
            one, other, grey = frame.flat[differs], newest.flat[differs], self.palette.grey
            newest.flat[differs] = np.where(grey[one] > grey[other], one, other)
        return newest

    def _hold(self, action, frames):
        return float(sum(self._ale.act(action) for _ in range(frames)))

    @property
    def terminated(self) -> bool:
        """Whether the game is over."""
        return self._ale.game_over(with_truncation=False)

    @property
    def truncated(self) -> bool:
        """Whether the episode was cut off at `max_episode_frames`."""
        return self._ale.game_truncated()

    def check_actions(self, meanings: Sequence[str]) -> None:
        """Checks that a checkpoint's or data set's actions are this game's.

        Args:
            meanings: their names, or numbers as text if they have no names.

        Raises:
            InputError: they are others.
        """
        numbers = [str(number) for number in range(self.num_actions)]
        if list(meanings) not in (numbers, list(self.action_meanings)):
            raise InputError(
                f"expected the actions of {self.name}, {', '.join(self.action_meanings)}, received "
                f"{', '.join(meanings)}. It was trained on data with other actions and cannot "
                "play. Choose another checkpoint"
            )

    def screen(self) -> np.ndarray:
        """Returns the current screen, [H, W] uint8 palette indices."""
        return self._screen.copy()

    def screen_rgb(self) -> np.ndarray:
        """Returns the current screen in colour, [H, W, 3] uint8 in R, G, B order."""
        return self.palette.rgb[self._screen]

    def screen_grey(self) -> np.ndarray:
        """Returns the current screen in grey, [H, W] uint8."""
        return self.palette.grey[self._screen]

    def observation(self, shape: tuple[int, int, int]) -> np.ndarray:
        """Returns the current screen fitted to a preset's (height, width, channels), uint8."""
        return resize(self.screen_rgb() if shape[-1] == 3 else self.screen_grey(), shape)

    def clone_state(self) -> Moment:
        """Returns the current moment, to which `restore_state` can go back any number of times."""
        return Moment(self._ale.cloneState(include_rng=True), self._screen, self._earlier)

    def restore_state(self, moment: Moment) -> None:
        """Goes back to a moment that `clone_state` of a game set like this one returned."""
        self._ale.restoreState(moment.emulator)
        self._screen, self._earlier = moment.screen, moment.earlier

    @property
    def lives(self) -> int:
        """How many lives are left; 0 in a game that has none."""
        return self._ale.lives()

    def memory(self) -> bytes:
        """Returns the console's 128 bytes of memory, which tell most moments of a game apart."""
        return self._ale.getRAM().tobytes()

    def step_unseen(self, action: int) -> float:
        """Plays one action and returns its reward, but does not read the screen.

        The screens of this object are right again after the next `restore_state`.
        """
        return self._hold(self._actions[action], self.frame_skip)

    def rewards_ahead(self, actions: np.ndarray) -> np.ndarray:
        """Returns the rewards of sequences of actions from here, and leaves the game as it is.

        Args:
            actions: int (sequences, steps), indices into `action_meanings`.

        Returns:
            float32 (sequences, steps); 0 once the game is over.
        """
        rewards = np.zeros(actions.shape, np.float32)
        moment = self._ale.cloneState(include_rng=True)
        # The common beginning of several sequences is played once. Where some part from the
        # first, they wait with the emulator's state and the number of steps played.
        waiting = [(moment, np.arange(len(actions)), 0)]
        while waiting:
            parting, alike, begin = waiting.pop()
            self._ale.restoreState(parting)
            for step in range(begin, actions.shape[1]):
                if self._ale.game_over():
                    break
                taken = actions[alike, step]
                others = taken != taken[0]
                if others.any():
                    parting = self._ale.cloneState(include_rng=True)
                    waiting.append((parting, alike[others], step))
                    alike = alike[~others]
                rewards[alike, step] = self._hold(self._actions[taken[0]], self.frame_skip)
        self._ale.restoreState(moment)
        return rewards

    def _read_screen(self) -> np.ndarray:
        """Returns the emulator's screen and learns the colours that are new in it."""
        screen = self._ale.getScreen()
        self._num_screens += 1
        if not self.palette.covers(screen) or self._num_screens % _PALETTE_CHECK_INTERVAL == 0:
            self.palette.learn(screen, self._ale.getScreenRGB(), self._ale.getScreenGrayscale())
        return screen


def _require(what, value, game, available):
    """Refuses a mode or difficulty that a game does not have."""
    if value not in available:
        raise InputError(
            f"expected a {what} of {game}, {', '.join(map(str, available))}, received {value}; "
            f"choose one (--{what})"
        )
