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
from pathlib import Path

import numpy as np

from systems.atari import AtariGame
from systems.compressed_simulator import CompressedSimulator
from systems.errors import InputError, check_writable, exit_on_input_error, whole_number
from systems.planning import METHODS, Play, play_episodes, play_in_processes
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
    if args.output:
        check_writable(args.output)
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
        found, film = _play(name, args, config)
        results["simulators"][name] = found
        print(
            f"{config['game']}, {name}: mean return {found['mean_return']:.2f} "
            f"{_bounds(found['interval'])}, {found['decisions_per_second']:.1f} decisions/s",
            flush=True,
        )
        if args.output:
            checkpoints.write_json(args.output, results)
        if film:
            video.write_video(args.video, film.joined())
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
    """Plays all episodes with one simulator.

    Returns:
        dict of returns, mean, interval, steps and decisions a second; the film, if there is one.
    """
    play = Play(
        config["game"],
        config["frame_skip"],
        config["warmup"],
        args.method,
        args.horizon,
        args.num_rollouts,
        args.max_steps,
        args.seed,
    )
    film = None
    if name == "compressed":
        predictor = checkpoints.load_predictor(args.checkpoint, precision="auto")
        simulator, shape = CompressedSimulator(predictor), predictor.preset.frame_shape
        film = _Film(simulator, shape) if args.video else None
        # Side by side: the larger the batch, the faster it imagines.
        plays = play_episodes(play, range(args.episodes), lambda games: simulator, shape, film)
    else:
        plays = play_in_processes(play, args.episodes, name, os.cpu_count())
    returns, steps, begun, ended = zip(*plays, strict=True)
    found = {
        "returns": returns,
        "mean_return": float(np.mean(returns)),
        "interval": (
            _interval(np.array(returns)[_draws(len(returns))].mean(axis=1))
            if len(returns) > 1
            else None
        ),
        "steps": steps,
        # From the end of each episode's first decision, which compiles, or starts a process.
        "decisions_per_second": (sum(steps) - len(steps)) / (max(ended) - min(begun)),
    }
    return found, film


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
