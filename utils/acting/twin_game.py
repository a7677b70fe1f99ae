"""One game played twice by the same actions: by the emulator and in a model's imagination.

Both start from the same ten real frames. The model then sees only the actions, until it is
resynchronised.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Set
from typing import NamedTuple

import numpy as np

from model.fast_imagination import FastImagination
from model.predictor import REWARD_CLASSES, Observation, State
from systems.policies import PersistentPolicy
from systems.seeds import generator
from utils.acting.live_planner import LivePlanner
from utils.checkpoint import Checkpoint

LATEST_START = 200  # steps that the held random actions before a start take at most


class Prediction(NamedTuple):
    """One imagined step."""

    frame: np.ndarray  # uint8 (height, width, channels)
    reward: float  # the expected sign, P(+1) - P(-1)
    termination: float  # the probability that the step ends the episode
    state: State  # after the step


class WorldModel:
    """A checkpoint's model, which imagines one step at a time for any number of games in turn.

    Args:
        checkpoint: of either variant.

    Attributes:
        checkpoint: as given.
        frame_shape: (height, width, channels) of a frame.

    Raises:
        InputError: the weights are missing or damaged.
    """

    def __init__(self, checkpoint: Checkpoint):
        self.checkpoint = checkpoint
        predictor = checkpoint.predictor(precision="auto")
        self.frame_shape = predictor.preset.frame_shape
        self._observation = Observation(predictor)
        self._imagination = FastImagination(predictor)

    def observe(self, frames: np.ndarray, actions: np.ndarray) -> State:
        """Returns the state after real frames.

        Args:
            frames: uint8 (time, height, width, channels).
            actions: int (time - 1,), between the frames.
        """
        batch = {"frames": frames[None], "actions": np.asarray(actions, np.int32)[None]}
        return self._observation.predict_on_batch(batch)

    def look(self, state: State, actions: np.ndarray, rows: np.ndarray | None = None) -> dict:
        """Imagines one step of several games, without frames.

        Args:
            state: of the games.
            actions: int (games,).
            rows: of `state`, from which each game goes on; None: each from its own.

        Returns:
            what `model.predictor.Imagination` returns.
        """
        return self._imagination(state, actions.astype(np.int32)[:, None], rows, decode=False)

    def step(self, state: State, action: int) -> Prediction:
        """Imagines one step from a state."""
        predictions = self._imagination(state, np.array([[action]], np.int32))
        frame = np.rint(predictions["frames"][0, 0]).astype(np.uint8)
        reward = float(predictions["reward"][0, 0] @ np.array(REWARD_CLASSES, np.float32))
        termination = float(predictions["termination"][0, 0])
        return Prediction(frame, reward, termination, predictions["state"])


class TwinGame:
    """The emulator's game and the imagined one, side by side.

    Args:
        models: of one game and frame size (see `utils.checkpoint.check_alike`). The first one
            imagines until `switch`.
        seed: of the starts.

    Attributes:
        emulator: the real game, of the Atari emulator or a Gymnasium environment.
        action_meanings: the name of each action.
        real, imagined: the two screens, uint8 (height, width, channels).
        steps: since the model last saw the game.
        reward: points of the last step.
        predicted_reward: their expected sign.
        total_reward: points since the start.
        total_predicted_reward: sum of the expected signs since the model last saw the game.
        termination: the predicted probability that the last step ended the game.

    Raises:
        InputError: the checkpoint's actions are not those of the game.
    """

    def __init__(self, models: list[WorldModel], seed: int = 0):
        self._models, self._active = models, 0
        config = models[0].checkpoint.config
        self._warmup = config.warmup
        self._rng = generator("play", seed)
        self.emulator = config.begin_real_game()
        self._seeds = generator("environment", seed)
        self.action_meanings = self.emulator.action_meanings
        self.restart()

    @property
    def variant(self) -> str:
        """The variant that imagines: "paper" or "compression"."""
        return self._model.checkpoint.config.variant

    @property
    def predicts_rewards(self) -> bool:
        """Whether the model has learned to predict rewards and terminations."""
        return self._model.checkpoint.predicts_rewards

    @property
    def over(self) -> bool:
        """Whether the real game is over."""
        return self.emulator.terminated or self.emulator.truncated

    @property
    def error(self) -> float:
        """Mean squared error of the imagined screen, in grey levels squared."""
        return _mean_squared_error(self.imagined, self.real)

    @property
    def error_repeat_last(self) -> float:
        """Mean squared error of repeating the last screen that the model saw."""
        return _mean_squared_error(self._last_seen, self.real)

    @property
    def _model(self):
        return self._models[self._active]

    def restart(self) -> None:
        """Starts a game, at a moment drawn from its first `LATEST_START` steps."""
        latest = LATEST_START
        while True:
            played = self._play_at_random(int(self._rng.integers(self._warmup, latest)))
            if not self.over or latest == self._warmup + 1:
                break
            # The game was shorter than that. Half of its length leaves something to play.
            latest = max(played // 2, self._warmup + 1)
        self.total_reward = self.reward = 0.0
        self.resynchronise()

    def _play_at_random(self, count):
        """Plays the first steps of a game; returns how many it had before it was over."""
        policy = PersistentPolicy(self.emulator, self._rng)
        self.emulator.reset(int(self._seeds.integers(2**31)))
        self._frames = deque([self._frame()], maxlen=self._warmup)
        self._actions = deque(maxlen=self._warmup - 1)
        self.total_reward = 0.0
        for played in range(count):
            if self.over:
                return played
            self._act(policy.action())
        return count

    def resynchronise(self) -> None:
        """Shows the model the last ten real frames. It imagines on from there."""
        self._state = self._model.observe(np.stack(self._frames), np.array(self._actions))
        self.real = self.imagined = self._last_seen = self._frames[-1]
        self.steps, self.total_predicted_reward = 0, 0.0
        self.predicted_reward = self.termination = 0.0

    def switch(self) -> None:
        """Lets the next model imagine, after it has seen the last ten real frames."""
        self._active = (self._active + 1) % len(self._models)
        self.resynchronise()

    def planned_action(self, planner: LivePlanner) -> int:
        """What a planner does next in the imagined game."""
        return planner.action(self._model, self._state)

    def step(self, action: int) -> None:
        """Plays and imagines one step. Does nothing once the real game is over."""
        if self.over:
            return
        self._act(action)
        self.real = self._frames[-1]
        prediction = self._model.step(self._state, action)
        self.imagined, self._state = prediction.frame, prediction.state
        self.predicted_reward, self.termination = prediction.reward, prediction.termination
        self.total_predicted_reward += prediction.reward
        self.steps += 1

    def _act(self, action):
        _, self.reward, _ = self.emulator.step(action)
        self.total_reward += self.reward
        self._actions.append(action)
        self._frames.append(self._frame())

    def _frame(self):
        return self.emulator.observation(self._models[0].frame_shape)


def _mean_squared_error(a, b):
    return float(np.square(a.astype(np.float32) - b).mean())


def action_of_keys(keys: Set[str], meanings: tuple[str, ...]) -> int:
    """Returns the action that comes nearest to the pressed keys.

    Args:
        keys: out of UP, DOWN, LEFT, RIGHT, FIRE and the digits. Opposite keys cancel out.
        meanings: the names of the game's actions: NOOP, FIRE, UP, UPRIGHT, UPRIGHTFIRE, ... If they
            are numbers, digits choose them.
    """
    for digit in sorted(keys & set(meanings)):
        if digit.isdigit():
            return meanings.index(digit)

    def one_of(*pair):
        pressed = [key for key in pair if key in keys]
        return pressed[0] if len(pressed) == 1 else ""

    vertical, horizontal = one_of("UP", "DOWN"), one_of("LEFT", "RIGHT")
    fire = "FIRE" if "FIRE" in keys else ""
    for name in (
        vertical + horizontal + fire,
        horizontal + fire,
        vertical + fire,
        vertical + horizontal,
        horizontal,
        vertical,
        fire,
    ):
        if name in meanings:
            return meanings.index(name)
    return meanings.index("NOOP") if "NOOP" in meanings else 0
