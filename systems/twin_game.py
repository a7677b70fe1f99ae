"""One game played twice by the same actions: by the emulator and in a model's imagination.

Both start from the same ten real frames. From there on the model sees nothing but the actions,
until it is resynchronised.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path

import numpy as np

from model.predictor import REWARD_CLASSES, Observation, State
from model.transitions import FastImagination
from systems.atari import AtariGame
from systems.policies import PersistentPolicy
from utils.checkpoints import load_predictor, read_config

LATEST_START = 200  # steps of held actions, at most, that a new start lies in the game


class Imaginer:
    """A checkpoint that imagines one step at a time, for any number of games in turn.

    Args:
        checkpoint: a stage's directory, of either variant.
    """

    def __init__(self, checkpoint: str | Path):
        self.config = read_config(checkpoint)
        predictor = load_predictor(checkpoint, precision="auto")
        self.shape = predictor.preset.frame_shape
        self._observe = Observation(predictor)
        self._look_ahead = FastImagination(predictor)

    def begin(self, frames: np.ndarray, actions: np.ndarray) -> State:
        """The state after frames, uint8 (time, height, width, channels), and actions between."""
        batch = {"frames": frames[None], "actions": np.asarray(actions, np.int32)[None]}
        return self._observe.predict_on_batch(batch)

    def step(self, state: State, action: int) -> tuple[np.ndarray, float, float, State]:
        """Imagines a step.

        Returns:
            The frame, uint8 (height, width, channels), the reward expected of it, P(+1) - P(-1),
            the probability that it ends the episode, and the state after it.
        """
        found = self._look_ahead(state, np.array([[action]], np.int32))
        frame = np.rint(found["frames"][0, 0]).astype(np.uint8)
        reward = float(found["reward"][0, 0] @ np.array(REWARD_CLASSES, np.float32))
        return frame, reward, float(found["termination"][0, 0]), found["state"]


class TwinGame:
    """The emulator's game and the imagined one, side by side.

    Args:
        imaginers: of one game and frame size (see `utils.checkpoints.check_alike`); the first is
            used until `switch`.
        seed: of the starts.

    Attributes:
        meanings: what each action is called.
        real, imagined: the two screens, uint8 (height, width, channels).
        steps: since the model saw the game.
        reward, predicted_reward: of the last step; points, and their expected sign.
        earned, predicted: their sums since the start, and since the model saw the game.
        termination: the probability that the model gives the last step of ending the game.
        over: whether the real game is over.
    """

    def __init__(self, imaginers: list[Imaginer], seed: int = 0):
        self._imaginers, self._active = imaginers, 0
        config = imaginers[0].config
        self._warmup = config["warmup"]
        self._rng = np.random.default_rng(seed)
        self._game = AtariGame(config["game"], frame_skip=config["frame_skip"])
        self._game.check_actions(config["action_meanings"])
        self.meanings = self._game.action_meanings
        self.restart()

    @property
    def variant(self) -> str:
        """The variant that imagines: "paper" or "compression"."""
        return self._imaginers[self._active].config["variant"]

    @property
    def tells_rewards(self) -> bool:
        """Whether the model has been trained to tell rewards and the end."""
        return self._imaginers[self._active].config["training"]["reward_weight"] > 0

    @property
    def over(self) -> bool:
        """Whether the real game is over."""
        return self._game.terminated or self._game.truncated

    def restart(self) -> None:
        """Begins a game, at a moment drawn from its first `LATEST_START` steps."""
        latest = LATEST_START
        while True:
            played = self._play_at_random(int(self._rng.integers(self._warmup, latest)))
            if not self.over or latest == self._warmup + 1:
                break
            # Some games are short: well before the end of this one.
            latest = max(played // 2, self._warmup + 1)
        self.earned = self.reward = 0.0
        self.resynchronise()

    def _play_at_random(self, count):
        """Plays the first steps of a game; returns how many there were before it was over."""
        policy = PersistentPolicy(self._game, self._rng)
        self._game.reset()
        self._frames = deque([self._look()], maxlen=self._warmup)
        self._actions = deque(maxlen=self._warmup - 1)
        self.earned = 0.0
        for played in range(count):
            if self.over:
                return played
            self._act(policy.action())
        return count

    def resynchronise(self) -> None:
        """Shows the model the last ten real frames, from which it imagines on."""
        self._state = self._imaginers[self._active].begin(
            np.stack(self._frames), np.array(self._actions)
        )
        self.real = self.imagined = self._last_seen = self._frames[-1]
        self.steps, self.predicted = 0, 0.0
        self.predicted_reward = self.termination = 0.0

    def switch(self) -> None:
        """Hands over to the next checkpoint, which is shown the last ten real frames."""
        self._active = (self._active + 1) % len(self._imaginers)
        self.resynchronise()

    def step(self, action: int) -> None:
        """Plays and imagines one step; nothing happens once the real game is over."""
        if self.over:
            return
        self._act(action)
        self.real = self._frames[-1]
        imaginer = self._imaginers[self._active]
        found = imaginer.step(self._state, action)
        self.imagined, self.predicted_reward, self.termination, self._state = found
        self.predicted += self.predicted_reward
        self.steps += 1

    @property
    def error(self) -> float:
        """Mean squared error of the imagined screen, levels squared."""
        return _mean_square(self.imagined, self.real)

    @property
    def error_repeat_last(self) -> float:
        """The same of the last screen that the model has seen."""
        return _mean_square(self._last_seen, self.real)

    def _act(self, action):
        _, self.reward, _ = self._game.step(action)
        self.earned += self.reward
        self._actions.append(action)
        self._frames.append(self._look())

    def _look(self):
        return self._game.observation(self._imaginers[0].shape)


def _mean_square(a, b):
    return float(np.square(a.astype(np.float32) - b).mean())


def action_of_keys(keys: set[str], meanings: tuple[str, ...]) -> int:
    """The action that comes nearest to the keys held down.

    Args:
        keys: out of UP, DOWN, LEFT, RIGHT, FIRE; opposite ones cancel out.
        meanings: what the game's actions are called: NOOP, FIRE, UP, UPRIGHT, UPRIGHTFIRE, ...
    """

    def one_of(*pair):
        held = [key for key in pair if key in keys]
        return held[0] if len(held) == 1 else ""

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
