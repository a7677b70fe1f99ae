"""The clip of several checkpoints: real above imagined, framed by what it is."""

import numpy as np
import pytest
from PIL import Image

from benchmarks.clips import BORDER, IMAGINED, REAL, SCALE, make_clip, start_with_reward
from systems.dataset import Dataset
from systems.record import record
from systems.windows import WindowSpec, sample

from . import tiny
from .checkpoints import write_checkpoint

pytestmark = pytest.mark.slow
WARMUP, HORIZON = 10, 6


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    # Random play of Space Invaders earns something soon.
    return record("space_invaders", "random", 300, 1, tmp_path_factory.mktemp("data"), 1, False)


@pytest.mark.thorough
def test_a_clip_shows_real_frames_and_then_imagined_ones(data, tmp_path):
    meanings = Dataset(data).action_meanings
    checkpoints = [
        write_checkpoint(
            tmp_path / variant,
            data,
            variant=variant,
            game="space_invaders",
            action_meanings=meanings,
        )
        for variant in ("paper", "compression")
    ]
    path = tmp_path / "clip.gif"
    make_clip(checkpoints, path, HORIZON, seed=1, fps=5)
    clip = Image.open(path)
    assert clip.n_frames == WARMUP + HORIZON
    side = tiny.TINY.frame_shape[0] * max(1, SCALE * 84 // tiny.TINY.frame_shape[0]) + 2 * BORDER
    for t, below in (
        (0, REAL),
        (WARMUP - 1, REAL),
        (WARMUP, IMAGINED),
        (clip.n_frames - 1, IMAGINED),
    ):
        clip.seek(t)
        shown = np.array(clip.convert("RGB"))
        assert shown.shape[1] >= 2 * side
        top = next(y for y in range(len(shown)) if tuple(shown[y, side // 2]) == REAL)
        assert tuple(shown[top + side + 1, side // 2]) == below
        # Both begin alike, of one game and one test set.
        if t < WARMUP:
            real, seen = shown[top : top + side, :side], shown[top + side : top + 2 * side, :side]
            assert (real == seen).all()


def test_a_start_with_a_reward_is_found(data):
    dataset = Dataset(data)
    windows = sample(dataset, tiny.TINY.frame_shape, WindowSpec(WARMUP, 30), 200, seed=0)
    episode, first = windows.position(start_with_reward(windows))
    assert dataset.rewards[episode][first + WARMUP - 1 : first + WARMUP - 1 + 30].any()


def test_without_rewards_the_first_start_is_taken(data, capsys):
    dataset = Dataset(data)
    dataset.rewards = [np.zeros_like(rewards) for rewards in dataset.rewards]
    windows = sample(dataset, tiny.TINY.frame_shape, WindowSpec(WARMUP, 5), 20, seed=0)
    assert start_with_reward(windows) == windows.numbers(0)[0]
    assert "no reward is earned" in capsys.readouterr().out
