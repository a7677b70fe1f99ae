"""Imagined games for an agent to learn in: many short ones at once, from real starts.

The agent sees the LSTM's output, so no frame is decoded. All games begin together, each at another
moment of real play, and last as many steps.
"""

from __future__ import annotations

import numpy as np
from tqdm import tqdm

from model.fast_imagination import FastImagination
from model.predictor import FramePredictor, Observation, State
from systems.dataset import Dataset
from systems.windows import WindowSpec, sample

STARTS_AT_ONCE = 64  # encoded as one batch


class Dream:
    """The compressed game from many starts.

    Args:
        predictor: of the compression variant, with trained heads; fastest in bfloat16.
        dataset: with the real play to start from.
        num_starts: moments to start from, as far as the data goes.
        seed: chooses them.

    Attributes:
        starts: their `State`, arrays of `num_starts` rows.
    """

    def __init__(self, predictor: FramePredictor, dataset: Dataset, num_starts: int, seed: int):
        self._imagination = FastImagination(predictor, decode=False)
        shape = predictor.preset.frame_shape
        # A horizon of one step, because no episode can go on after its last frame.
        windows = sample(dataset, shape, WindowSpec(predictor.warmup, 1), num_starts, seed)
        observe, parts = Observation(predictor), []
        numbers = windows.numbers(0)
        for first in tqdm(range(0, len(numbers), STARTS_AT_ONCE), desc="starts", unit="batch"):
            some = windows.read(numbers[first : first + STARTS_AT_ONCE])
            frames = some["frames"][:, : predictor.warmup]
            actions = some["actions"][:, : predictor.warmup - 1]
            state = observe.predict_on_batch({"frames": frames, "actions": actions})
            # The compression variant never encodes again, so recent frames are not kept.
            nothing = np.zeros((len(frames), 0), np.float32)
            parts.append(State(*(np.array(p, np.float32) for p in state))._replace(recent=nothing))
        self.starts = State(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    def begin(self, games: int, rng: np.random.Generator) -> State:
        """The state of so many games at starts drawn at random."""
        rows = rng.integers(len(self.starts.h), size=games)
        return State(*(part[rows] for part in self.starts))

    def step(self, state: State, actions: np.ndarray) -> tuple[State, np.ndarray, np.ndarray]:
        """Imagines one step of every game.

        Args:
            state: as `begin` or `step` returns it.
            actions: int (games,).

        Returns:
            the next state; the expected sign of each reward, float32 (games,); and the probability
            that the step ends the game, float32 (games,).
        """
        predictions = self._imagination(state, actions.astype(np.int32)[:, None])
        reward = predictions["reward"][:, 0]
        return predictions["state"], reward[:, 2] - reward[:, 0], predictions["termination"][:, 0]
