"""Plays the real game by planning in several simulators, and compares what they earn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from systems.errors import InputError, check_writable, say
from systems.files import num_cores, write_json
from systems.planning import Planner, Play, play_in_processes, play_side_by_side
from systems.provenance import made
from utils.acting.bootstrap import QUANTILES, interval_of, resampled
from utils.checkpoint import Checkpoint
from utils.start import import_keras
from utils.watching import video

SIMULATORS = ("compressed", "emulator", "none")
FILMED_STEPS = 300


@dataclass(frozen=True)
class ComparisonSettings:
    """What is compared; see `plan.py --help`."""

    checkpoint: Path
    simulators: tuple[str, ...]  # out of SIMULATORS
    method: str
    horizon: int  # steps
    num_rollouts: int  # sequences a decision, at most
    num_episodes: int
    max_episode_steps: int  # decisions in an episode
    seed: int
    json: Path | None = None  # file of all figures
    video: Path | None = None  # of the first episode


def compare_simulators(settings: ComparisonSettings) -> None:
    """Plays with each simulator, prints what they earned and writes what the settings ask for.

    Raises:
        InputError: the settings do not fit each other, the checkpoint or the disk.
    """
    if settings.json:
        check_writable(settings.json)
    checkpoint = Checkpoint(settings.checkpoint)
    config = checkpoint.config
    if settings.video:
        video.check_output(settings.video)
        if "compressed" not in settings.simulators:
            raise InputError(
                "expected --simulator=compressed with --video, because the video shows what that "
                "simulator imagines"
            )
    if "compressed" in settings.simulators:
        checkpoint.require_rewards()
    if "emulator" in settings.simulators and config.environment:
        raise InputError(
            f"expected --simulator=compressed or none for {config.game}, received emulator: it "
            "looks ahead in the Atari emulator, and other environments cannot be set back"
        )
    num_actions = config.begin_real_game().num_actions
    results = {
        "checkpoint": str(settings.checkpoint),
        "game": config.game,
        "method": settings.method,
        "horizon": settings.horizon,
        "num_rollouts": _num_tried(settings, num_actions),
        "episodes": settings.num_episodes,
        "max_steps": settings.max_episode_steps,
        "seed": settings.seed,
        "made": made(playing=settings.seed, training=config.training.seed),
        "simulators": {},
    }
    for name in settings.simulators:
        result, film = _play(name, settings, checkpoint)
        results["simulators"][name] = result
        say(
            f"{config.game}, {name}: mean return {result['mean_return']:.2f} "
            f"{_interval_text(result['interval'])}, "
            f"{result['decisions_per_second']:.1f} decisions/s"
        )
        if settings.json:
            write_json(settings.json, results)
        if film and film.captions:
            video.write_video(settings.video, film.frames())
        elif film:
            say("note: the first episode ended while it was warmed up, so there is no video of it")
    if set(settings.simulators) == set(SIMULATORS):
        returns = (results["simulators"][name]["returns"] for name in SIMULATORS)
        results["share_kept"] = share_kept(*returns)
        say(_share_text(results["share_kept"]))
    if settings.json:
        write_json(settings.json, results)


def _num_tried(settings, num_actions):
    """Sequences a decision: the planner's rounds may not add up to all that are asked for."""
    rngs = [np.random.default_rng(0)]
    rollouts, method = settings.num_rollouts, settings.method
    return Planner(num_actions, settings.horizon, rollouts, method, rngs).num_tried


def _play(name, settings, checkpoint):
    """Plays all episodes with one simulator.

    Returns:
        the figures, a dict, and the film if there is one.
    """
    config = checkpoint.config
    play = Play(
        config.real_game,
        config.warmup,
        settings.method,
        settings.horizon,
        settings.num_rollouts,
        settings.max_episode_steps,
        settings.seed,
    )
    film = None
    if name == "compressed":
        # Imported here, because it brings Keras: a wrong path should be an error at once.
        import_keras()
        from utils.acting.simulator import CompressedSimulator

        predictor = checkpoint.predictor(precision="auto")
        simulator, shape = CompressedSimulator(predictor), predictor.preset.frame_shape
        film = _Film(simulator, shape) if settings.video else None
        # Side by side, because a larger batch is imagined faster.
        episodes = play_side_by_side(
            play, range(settings.num_episodes), lambda games: simulator, shape, film
        )
    else:
        episodes = play_in_processes(play, settings.num_episodes, name, num_cores())
    returns, steps, begun, ended = zip(*episodes, strict=True)
    interval = None
    if len(returns) > 1:
        interval = interval_of(np.array(returns)[resampled(len(returns))].mean(axis=1))
    # The first decision of each episode is left out, because it compiles or starts a process.
    decisions = sum(max(count - 1, 0) for count in steps)
    seconds = max(ended) - min(begun)
    result = {
        "returns": returns,
        "mean_return": float(np.mean(returns)),
        "interval": interval,
        "steps": steps,
        "decisions_per_second": decisions / seconds if seconds > 0 else 0.0,
    }
    return result, film


class _Film:
    """The real game beside what the planner imagines: the next step, and the end of its plan."""

    def __init__(self, simulator, shape):
        self._simulator, self._shape = simulator, shape
        self._panels = {"game": [], "next step": [], "end of the plan": []}
        self.captions = []

    def watch(self, game, plan):
        """Adds a step; see `systems.planning.Watcher`."""
        if len(self.captions) == FILMED_STEPS:
            return
        imagined = video.to_uint8_rgb(self._simulator.frames(plan))
        real = video.to_uint8_rgb(game.observation(self._shape))
        # A copy of the last frame, because a view would keep the whole plan's frames.
        frames = real, imagined[0].copy(), imagined[-1].copy()
        for panel, frame in zip(self._panels.values(), frames, strict=True):
            panel.append(frame)
        self.captions.append(f"step {len(self.captions) + 1}  {game.action_meanings[int(plan[0])]}")

    def frames(self):
        """Yields the video's frames."""
        return video.side_by_side(self._panels, self.captions)


def share_kept(compressed: list, emulator: list, none: list) -> dict | None:
    """The share of a perfect model's gain over random play that the compressed model keeps.

    Args:
        compressed, emulator, none: returns of the episodes with each simulator.

    Returns:
        dict of share, (compressed - none) / (emulator - none) of the mean returns, and interval,
        which holds it with 95 %. The interval is None where the gain may be 0, as with a single
        episode. None in all where the perfect model earns no more than random play.
    """
    returns = [np.array(part, np.float64) for part in (compressed, emulator, none)]

    def share(c, e, n):
        return (c - n) / (e - n)

    means = [part.mean() for part in returns]
    if means[1] <= means[2]:
        return None
    c, e, n = (part[resampled(len(part), i)].mean(axis=1) for i, part in enumerate(returns))
    gained = e > n
    interval = None
    if gained.mean() >= QUANTILES[1] and min(map(len, returns)) > 1:
        interval = interval_of(share(c[gained], e[gained], n[gained]))
    return {"share": float(share(*means)), "interval": interval}


def _share_text(kept):
    if kept is None:
        return "share kept: undefined, because a perfect model earns no more than random play"
    if kept["interval"]:
        return f"share kept: {kept['share']:.2f} {_interval_text(kept['interval'])}"
    return (
        f"share kept: {kept['share']:.2f} (no interval, because the perfect model's gain over "
        "random play may be 0. Give more --num_episodes or a longer --horizon)"
    )


def _interval_text(interval):
    return "[{:.2f}, {:.2f}]".format(*interval) if interval else "(one episode)"
