"""Plays the real game by planning, and measures how much of it the compressed model has kept.

At every step the planner tries sequences of actions in a simulator and takes the first action of
the best. The same planner runs with

  compressed  the checkpoint's own imagination, kept in step with the game frame by frame
  emulator    the cloned emulator: the score that a perfect model would give
  none        no simulator: actions at random, held for as long

Give --simulator several times to compare; with all three it reports the share of the perfect
model's gain over random play that the compressed model keeps.
"""

import argparse
import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from tqdm import tqdm

from systems.atari import AtariGame
from systems.errors import InputError, exit_on_input_error, whole_number
from systems.planning import METHODS, CompressedSimulator, EmulatorSimulator, Planner
from systems.policies import PersistentPolicy
from utils import checkpoints, video

SIMULATORS = ("compressed", "emulator", "none")
BOOTSTRAPS = 10_000


def main() -> None:
    """Plays by the command line's flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--checkpoint", required=True, type=Path, metavar="DIR", help="a *_reward stage's directory"
    )
    add(
        "--simulator",
        action="append",
        choices=SIMULATORS,
        help="where to look ahead (compressed); may be given several times",
    )
    add("--method", choices=METHODS, default="cem", help="random shooting or cross-entropy (cem)")
    add("--horizon", type=whole_number(1), default=20, help="steps looked ahead (20)")
    add("--num_rollouts", type=whole_number(2), default=128, help="sequences a decision (128)")
    add("--episodes", type=whole_number(1), default=10, help="(10)")
    add("--max_steps", type=whole_number(1), default=1000, help="of each episode (1000)")
    add("--seed", type=whole_number(0), default=0, help="of all that is drawn (0)")
    add("--output", type=Path, metavar="JSON", help="write all figures")
    add("--video", metavar="MP4", help="show the first episode beside what was imagined")
    args = parser.parse_args()
    with exit_on_input_error():
        compare(args)


def compare(args: argparse.Namespace) -> None:
    """Plays with each simulator and prints what they earned."""
    if args.output and not args.output.parent.is_dir():
        raise InputError(f"expected a directory to write {args.output} to, there is none")
    config = checkpoints.read_config(args.checkpoint)
    simulators = list(dict.fromkeys(args.simulator or ["compressed"]))
    if args.video:
        video.check_output(args.video)
        if "compressed" not in simulators:
            raise InputError("expected --simulator=compressed with --video: it shows what that saw")
    if "compressed" in simulators:
        checkpoints.check_tells_rewards(config, args.checkpoint)
    AtariGame(config["game"]).check_actions(config["action_meanings"])
    results = {
        "checkpoint": str(args.checkpoint),
        "game": config["game"],
        **{
            key: getattr(args, key)
            for key in ("method", "horizon", "num_rollouts", "episodes", "max_steps", "seed")
        },
        "simulators": {},
    }
    for name in simulators:
        results["simulators"][name] = found = _play(name, args, config)
        print(
            f"{config['game']}, {name}: mean return {found['mean_return']:.2f} "
            f"{_bounds(found['interval'])}, {found['decisions_per_second']:.1f} decisions/s",
            flush=True,
        )
        if args.output:
            checkpoints.write_json(args.output, results)
    if len(simulators) == len(SIMULATORS):
        kept = share_kept(*(results["simulators"][name]["returns"] for name in SIMULATORS))
        results["share_kept"] = kept
        if kept is None:
            print("share kept: undefined, a perfect model earns no more than random play")
        else:
            bounds = (
                _bounds(kept["interval"])
                if kept["interval"]
                else "(no interval: by so few --episodes the perfect model's gain over random "
                "play may be nothing. Play more, or look further ahead by --horizon)"
            )
            print(f"share kept: {kept['share']:.2f} {bounds}")
    if args.output:
        checkpoints.write_json(args.output, results)


def _play(name, args, config):
    """Plays all episodes with one simulator; returns, mean, interval, decisions a second."""
    if name == "compressed":
        predictor = checkpoints.load_predictor(args.checkpoint, precision="auto")
        simulator = CompressedSimulator(predictor)
        film = _Film(simulator, predictor.preset.frame_shape) if args.video else None
        # Side by side: the larger the batch, the faster it imagines.
        returns, steps, spans = play_episodes(
            args,
            config,
            range(args.episodes),
            lambda games: simulator,
            shape=predictor.preset.frame_shape,
            film=film,
        )
        if film:
            video.write_video(args.video, film.joined())
    else:
        # ALE keeps Python's lock while it emulates, so each episode has a process. A fork would
        # carry TensorFlow's threads along.
        with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
            jobs = [
                pool.submit(_play_in_process, name, args, config, episode)
                for episode in range(args.episodes)
            ]
            plays = [job.result() for job in tqdm(jobs, desc=name, unit="episode")]
        returns = [earned for (earned,), _, _ in plays]
        steps = [taken for _, (taken,), _ in plays]
        spans = [span for _, _, (span,) in plays]
    begun, ended = np.transpose(spans)
    return {
        "returns": returns,
        "mean_return": float(np.mean(returns)),
        "interval": (
            _interval(np.array(returns)[_draws(len(returns))].mean(axis=1))
            if len(returns) > 1
            else None
        ),
        "steps": steps,
        # From the end of each episode's first decision, which compiles, or starts a process.
        "decisions_per_second": (sum(steps) - len(steps)) / (ended.max() - begun.min()),
    }


def _play_in_process(name, args, config, episode):
    find = (lambda games: EmulatorSimulator(games[0])) if name == "emulator" else None
    return play_episodes(args, config, [episode], find)


def play_episodes(args, config, episodes, simulator_of, shape=None, film=None):
    """Plays episodes of the real game side by side, one decision in each at a time.

    The first ten frames, which the model has to see, are played alike with every simulator.

    Args:
        args: the command line's flags.
        config: the checkpoint's.
        episodes: their numbers; with the seed a number decides all that is drawn in an episode.
        simulator_of: returns the `Simulator` of the games, a list; None to play at random.
        shape: of the frames that the simulator observes; None if it needs none.
        film: who watches the first episode.

    Returns:
        For each episode the points earned, the number of decisions, and when the first and the
        last of them had been made, in seconds of `time.time`.
    """
    rngs = [np.random.default_rng([args.seed, episode]) for episode in episodes]
    games = [AtariGame(config["game"], seed=0) for _ in rngs]
    at_random = [PersistentPolicy(*one) for one in zip(games, rngs, strict=True)]
    earned, steps = np.zeros(len(games)), np.zeros(len(games), int)

    def take(actions):
        """Goes on in the games that are not over; returns in which."""
        alive = np.array([not (game.terminated or game.truncated) for game in games])
        for i in np.flatnonzero(alive):
            earned[i] += games[i].step(int(actions[i]))[1]
        return alive

    def look():
        return None if shape is None else np.stack([game.observation(shape) for game in games])

    frames, actions = [look()], []
    for _ in range(config["warmup"] - 1):
        actions.append(np.array([policy.action() for policy in at_random]))
        take(actions[-1])
        frames.append(look())
    if simulator_of:
        simulator = simulator_of(games)
        planner = Planner(games[0].num_actions, args.horizon, args.num_rollouts, args.method, rngs)
        if shape is not None:
            simulator.begin(np.stack(frames, axis=1), np.stack(actions, axis=1))
    begun, filming = time.time(), 0.0
    for i in tqdm(range(args.max_steps), desc="side by side", unit="step", disable=shape is None):
        if simulator_of:
            plans = planner.plan(simulator)
        else:
            plans = np.array([[policy.action()] for policy in at_random])
        if film and not (games[0].terminated or games[0].truncated):
            started = time.time()
            film.watch(games[0], plans[0])
            filming += time.time() - started  # is no part of deciding
        alive = take(plans[:, 0])
        if not alive.any():
            break
        steps += alive
        if simulator_of and shape is not None:
            simulator.observe(look(), plans[:, 0])
        if i == 0:
            begun, filming = time.time(), 0.0
    return earned.tolist(), steps.tolist(), [(begun, time.time() - filming)] * len(games)


class _Film:
    """The real game beside what the planner imagines: the next step, and the end of its plan."""

    STEPS = 300

    def __init__(self, simulator, shape):
        self._simulator, self._shape = simulator, shape
        self._panels = {"game": [], "next step": [], "end of the plan": []}
        self._captions = []

    def watch(self, game, plan):
        if len(self._captions) == self.STEPS:
            return
        imagined = video.to_uint8_rgb(self._simulator.frames(plan))
        now = video.to_uint8_rgb(game.observation(self._shape))
        for name, frame in zip(self._panels, (now, imagined[0], imagined[-1]), strict=True):
            self._panels[name].append(frame)
        self._captions.append(
            f"step {len(self._captions) + 1}  {game.action_meanings[int(plan[0])]}"
        )

    def joined(self):
        panels = {name: np.stack(frames) for name, frames in self._panels.items()}
        return video.side_by_side(panels, self._captions, 3)


def share_kept(compressed: list, emulator: list, none: list) -> dict | None:
    """(compressed - random) / (emulator - random) of mean returns, with a 95 % interval.

    None where the perfect model earns no more than random play; the interval alone is None where
    that cannot be excluded, as by single episodes: the share may be of nothing then.
    """
    parts = [np.array(part, np.float64) for part in (compressed, emulator, none)]

    def share(c, e, n):
        return (c - n) / (e - n)

    means = [part.mean() for part in parts]
    if means[1] <= means[2]:
        return None
    c, e, n = (part[_draws(len(part), i)].mean(axis=1) for i, part in enumerate(parts))
    gained = e > n
    interval = None
    if gained.mean() >= 0.975 and min(map(len, parts)) > 1:
        interval = _interval(share(c[gained], e[gained], n[gained]))
    return {"share": float(share(*means)), "interval": interval}


def _bounds(interval):
    return "[{:.2f}, {:.2f}]".format(*interval) if interval else "(one episode)"


def _draws(count, seed=0):
    return np.random.default_rng(seed).integers(count, size=(BOOTSTRAPS, count))


def _interval(values):
    low, high = np.quantile(values, [0.025, 0.975])
    return [float(low), float(high)]


if __name__ == "__main__":
    main()
