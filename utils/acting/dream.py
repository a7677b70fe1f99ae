"""Imagined games for an agent to learn in: many short ones at once, from real starts.

The agent sees the LSTM's output, so no frame is decoded. All games begin together, each at another
moment of real play, and last as many steps.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from model.fast_imagination import FastImagination
from model.predictor import FramePredictor, Moments, State
from systems.dataset import Dataset
from systems.windows import Windows, WindowSpec

RUN = 20  # moments in a row that are read at once, because each is the warm-up of the next
NUM_RUNS = 100  # at least, or few starts would all be alike
RUNS_AT_ONCE = 8  # encoded as one batch


class Starts(NamedTuple):
    """Moments of recorded play, as the model has observed them.

    Attributes:
        state: `State` with one row for each.
        moments: episode and frame of each.
    """

    state: State
    moments: list[tuple[int, int]]

    def drawn(self, games: int, rng: np.random.Generator) -> tuple[State, np.ndarray]:
        """The state of so many games at starts drawn at random, and the numbers of the starts."""
        rows = rng.integers(len(self.moments), size=games)
        return State(*(part[rows] for part in self.state)), rows


def real_starts(predictor: FramePredictor, dataset: Dataset, num_starts: int, seed: int) -> Starts:
    """Observes moments of recorded play.

    Args:
        predictor: which observes.
        dataset: with the play.
        num_starts: how many, as far as the data goes.
        seed: chooses them.
    """
    runs, numbers = _runs(dataset, predictor, num_starts, seed)
    observe, parts, moments = Moments(predictor), [], []
    for first in tqdm(range(0, len(numbers), RUNS_AT_ONCE), desc="starts", unit="batch"):
        some = runs.read(numbers[first : first + RUNS_AT_ONCE])
        # Without the last frame, because no episode can go on after its own.
        frames, actions = some["frames"][:, :-1], some["actions"][:, :-1]
        state = observe.predict_on_batch({"frames": frames, "actions": actions})
        parts.append([_rows(part).astype(np.float32) for part in state])
    for number in numbers:
        episode, first = runs.position(number)
        now = first + predictor.warmup - 1
        moments += [(episode, now + later) for later in range(runs.spec.horizon)]
    whole = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Starts(State(*(part[:num_starts] for part in whole)), moments[:num_starts])


class Dream:
    """The compressed game from many starts.

    Args:
        predictor: of the compression variant, with trained heads; fastest in bfloat16.
        starts: where games begin.
    """

    def __init__(self, predictor: FramePredictor, starts: Starts):
        self._imagination, self._starts = FastImagination(predictor, decode=False), starts

    def begin(self, games: int, rng: np.random.Generator) -> State:
        """The state of so many games at starts drawn at random."""
        return self._starts.drawn(games, rng)[0]

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


def _runs(dataset, predictor, num_starts, seed):
    """The windows that lie end to end in each episode, up to its last frame, and some of them."""
    warmup = predictor.warmup
    longest = int(dataset.lengths.max()) + 1 - warmup
    moments = max(1, min(RUN, num_starts // NUM_RUNS, longest))
    spec = WindowSpec(warmup, moments)
    windows = Windows(dataset, predictor.preset.frame_shape, spec, 1, seed)
    numbers = []
    for number in range(windows.num_windows):
        episode, first = windows.position(number)
        if (dataset.lengths[episode] + 1 - spec.length - first) % moments == 0:
            numbers.append(number)
    order = np.random.default_rng(seed).permutation(numbers)
    return windows, order[: -(-num_starts // moments)].tolist()


def _rows(moments):
    """Puts moments (runs, time, ...) one after the other."""
    runs, count, *rest = np.shape(moments)
    return np.reshape(moments, (runs * count, *rest))
