"""The tables of README and docs, made from the JSON files in docs/results.

Errors are shares of the error of repeating the last real frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import import_module

from benchmarks import agent_tables, quality_table, shipped_tables, speed_tables
from benchmarks.pages import TITLES, copied, markdown, number, ratio, read, rewards, source
from model.operations import parameters
from model.presets import PRESETS
from utils.training.phases import PHASES, PREFIXES, STAGES
from utils.training.stage import script_module

# Those that `make results` trains.
GAMES = {game: TITLES[game] for game in ("freeway", "pong", "ms_pacman", "space_invaders")}
VARIANTS = {prefix: variant for variant, prefix in PREFIXES.items()}  # by the names of files
PLANS = {"freeway": "freeway_plan_40"} | {game: f"{game}_plan" for game in [*GAMES][1:]}
SHIPPED_PLANS = {game: f"{game}_plan_shipped" for game in GAMES}
PIXELS = (("mse", "all"), ("mse_moving", "moving"), ("mse_controlled", "controlled"))


def at_a_glance() -> str:
    """A row for each game and variant."""
    horizons = ("1", "5", "10", "30", "100")
    heads = ["", "1 step", *horizons[1:], "moving, 5", "controlled, 5", "10", "shuffled, 5"]
    heads.append("reward within 5")
    names = [(f"{game}_{variant}", GAMES[game], variant) for game in GAMES for variant in VARIANTS]
    rows = []
    for name, title, variant in names:
        result = read(name)
        five = result["horizons"]["5"]
        rows.append(
            [
                f"{title}, {VARIANTS[variant]}",
                *(number(ratio(result["horizons"][horizon], "mse")) for horizon in horizons),
                *(number(ratio(five, key)) for key in ("mse_moving", "mse_controlled")),
                number(ratio(result["horizons"]["10"], "mse_controlled")),
                number(ratio(five, "mse_controlled", "shuffled_actions")),
                _reward(result, "5"),
            ]
        )
    return markdown(heads, rows) + source(*(name for name, *_ in names))


def full_frames() -> str:
    """What the commands of 2016 come to: a row for each variant."""
    return _compared({f"ms_pacman_full_{name}": label for name, label in VARIANTS.items()})


def default_training() -> str:
    """What the four stages come to by default, beside the weights in this repository."""
    return _compared(
        {
            "ms_pacman_shipped": "weights in this repository",
            "ms_pacman_6000": "four stages, 6,000 steps of pretraining",
            "ms_pacman_default": "four stages, 9,000 steps, by default",
        }
    )


def _compared(labels: dict[str, str]) -> str:
    """A row for each file of `evaluate.py` on the same windows."""
    horizons = ("1", "3", "5", "10", "30", "100")
    heads = ["", "1 step", *horizons[1:], "moving, 5", "controlled, 5", "shuffled, 5"]
    heads += ["over recall, 1", "10", "reward within 5"]
    rows = []
    for name, label in labels.items():
        result = read(name)
        of = result["horizons"]
        cells = [number(ratio(of[horizon], "mse")) for horizon in horizons]
        cells += [number(ratio(of["5"], key)) for key, _ in PIXELS[1:]]
        cells.append(number(ratio(of["5"], "mse_controlled", "shuffled_actions")))
        cells += [number(ratio(of[horizon], "mse", "recall"), 2) for horizon in ("1", "10")]
        rows.append([label, *cells, _reward(result, "5")])
    windows = result["num_windows"]
    return markdown(heads, rows) + source(*labels, note=f"{windows} windows. One run each.")


def _reward(result, horizon):
    """The average precision of each sign that occurs."""
    return rewards(result["reward"]["average_precision_within"].get(horizon, {}))


def reward_table() -> str:
    """How well rewards are predicted, by game, variant and sign."""
    horizons = ("1", "3", "5", "10", "30")
    heads = ["", "share of steps", "within 1", *horizons[1:]]
    rows, files = [], []
    for name, title in GAMES.items():
        for variant, label in VARIANTS.items():
            files.append(f"{name}_{variant}")
            reward = read(files[-1])["reward"]
            signs = [sign for sign, rate in reward["positive_rate"].items() if rate]
            for sign in signs:
                of = "" if len(signs) == 1 else f", {'won' if sign == '1' else 'lost'}"
                within = [
                    number(reward["average_precision_within"][horizon].get(sign), 2)
                    for horizon in horizons
                ]
                share = f"{reward['positive_rate'][sign]:.1%}"
                rows.append([f"{title}{of}, {label}", share, *within])
    return markdown(heads, rows) + source(*files)


def returns() -> str:
    """The error of the rewards summed up, beside that of predicting none."""
    horizons = ("5", "10", "30", "100")
    heads = ["", *(f"{horizon} steps" for horizon in horizons)]
    rows, files = [], []
    for name, title in GAMES.items():
        for variant, label in VARIANTS.items():
            files.append(f"{name}_{variant}")
            reward = read(files[-1])["reward"]
            cells = [
                f"{reward['cumulative_error'][horizon]:.2f} "
                f"({reward['cumulative_error_zero'][horizon]:.2f})"
                for horizon in horizons
            ]
            rows.append([f"{title}, {label}", *cells])
    return markdown(heads, rows) + source(*files)


def planning() -> str:
    """What the planner earns with each simulator, and how fast it decides."""
    heads = ["", "steps ahead", "episodes x steps", "compressed", "emulator", "random actions"]
    heads += ["share kept", "decisions a second: compressed", "emulator", "ratio"]
    rows = []
    named = [(GAMES[game], file) for game, file in PLANS.items()]
    named += [(f"{GAMES[game]}, shipped weights", file) for game, file in SHIPPED_PLANS.items()]
    for title, file in named:
        plan = read(file)
        by = plan["simulators"]
        cells = [_with_interval(by[key]["mean_return"], by[key]["interval"]) for key in SIMULATORS]
        kept = plan["share_kept"]
        speeds = [by[key]["decisions_per_second"] for key in ("compressed", "emulator")]
        rows.append(
            [
                title,
                str(plan["horizon"]),
                f"{len(by['compressed']['returns'])} x {max(by['compressed']['steps'])}",
                *cells,
                # Without an interval, because the gain that is shared may be 0.
                _with_interval(kept["share"], kept["interval"], 2) if kept["interval"] else "-",
                *(number(speed, 1) for speed in speeds),
                number(speeds[0] / speeds[1], 1),
            ]
        )
    return markdown(heads, rows) + source(
        *(file for _, file in named), note="Brackets: 95 % intervals."
    )


SIMULATORS = ("compressed", "emulator", "none")


def _with_interval(value, interval, digits=1):
    low, high = (f"{end:,.{digits}f}" for end in interval)
    return f"{value:,.{digits}f} [{low}, {high}]"


def players() -> str:
    """Trained on one player, tested on another."""
    heads = ["trained on, tested on", "1 step", "3", "5", "10", "30", "controlled, 5"]
    heads.append("reward within 5")
    rows, files = [], []
    for trained in ("random", "lookahead"):
        for tested in ("random", "lookahead"):
            files.append(f"ms_pacman_compress_{trained}_on_{tested}")
            result = read(files[-1])
            errors = [
                number(ratio(result["horizons"][horizon], "mse"))
                for horizon in ("1", "3", "5", "10", "30")
            ]
            controlled = number(ratio(result["horizons"]["5"], "mse_controlled"))
            rows.append([f"{trained}, {tested}", *errors, controlled, _reward(result, "5")])
    return markdown(heads, rows) + source(*files)


def pretraining() -> str:
    """Pong's compression variant from random weights and from pretraining."""
    files = {"pong_before": "none", "pong_compress": "18,000 steps"}
    heads = ["pretraining", "1 step", "5", "10", "30", "controlled, 5", "lost points within 5"]
    rows = []
    for file, label in files.items():
        result = read(file)
        errors = [
            number(ratio(result["horizons"][horizon], "mse")) for horizon in ("1", "5", "10", "30")
        ]
        lost = result["reward"]["average_precision_within"]["5"]["-1"]
        controlled = number(ratio(result["horizons"]["5"], "mse_controlled"))
        rows.append([label, *errors, controlled, number(lost, 2)])
    return markdown(heads, rows) + source(*files)


def experiment(name: str) -> str:
    """A table of `experiments.json`, whose figures were copied from an earlier page."""
    kept = read("experiments")[name]
    digits = [2 if "within" in head or "at 1" in head else 3 for head in kept["heads"]]
    rows = [
        [row[0], *(number(value, d) for value, d in zip(row[1:], digits[1:], strict=True))]
        for row in kept["rows"]
    ]
    if "then" in kept:
        file, label = kept["then"]
        result = read(file)
        horizons = [head.split()[0] for head in kept["heads"][1:-1]]
        cells = [number(ratio(result["horizons"][horizon], "mse")) for horizon in horizons]
        rows.append([label, *cells, _reward(result, "5")])
    return markdown(kept["heads"], rows) + copied("experiments", kept)


def network_parameters() -> str:
    """How many parameters each part of the two networks has."""
    counts = {name: parameters(preset, 18) for name, preset in PRESETS.items() if name in _NETWORKS}
    rows = [
        [part.replace("_", " "), *(f"{getattr(count, part):,}" for count in counts.values())]
        for part in next(iter(counts.values()))._fields
    ]
    rows.append(["all", *(f"{sum(count):,}" for count in counts.values())])
    return markdown(["part", *(f"`{name}`" for name in counts)], rows)


_NETWORKS = ("lstm_84x84x1", "lstm_210x160x3")


def layers(name: str) -> str:
    """The convolutions of a network, in order."""
    preset = PRESETS[name]
    height, width, _ = preset.frame_shape
    rows = []
    for conv in preset.encoder:
        height, width = math.ceil(height / conv.stride), math.ceil(width / conv.stride)
        rows.append(["convolution", conv, (height, width)])
    for conv, size in zip(preset.decoder, preset.decoder_sizes(), strict=True):
        rows.append(["transposed convolution", conv, size])
    heads = [f"`{name}`", "kernel", "stride", "output"]
    return markdown(
        heads,
        [
            [
                kind,
                f"{conv.size} x {conv.size}",
                str(conv.stride),
                f"{height} x {width} x {conv.filters}",
            ]
            for kind, conv, (height, width) in rows
        ],
    )


def stages() -> str:
    """What each stage trains on, from the scripts themselves."""
    heads = ["stage", "variant", "pretraining steps", "they look ahead"]
    heads += ["steps", "they look ahead", "compared"]
    rows = []
    for variant, label in VARIANTS.items():
        for stage in STAGES:
            facts = import_module(script_module(f"{variant}_{stage}")).STAGE
            ahead = str(facts.horizon) if facts.feed_back else f"1, {facts.horizon} times"
            steps = f"{facts.pretraining_steps:,}" if facts.pretraining_steps else "-"
            phases = ", then ".join(str(phase.horizon) for phase in PHASES.get(facts.name, ()))
            compared = str(facts.decoded) + (", and the reward" if facts.reward_weight else "")
            cells = [steps, phases or "-", str(facts.max_steps), ahead, compared]
            rows.append([f"`{stage}`", label, *cells])
    return markdown(heads, rows)


def environments() -> str:
    """The games that are not Atari's."""
    horizons = ("1", "3", "5", "10", "30")
    names = {"lunar_lander_paper": "LunarLander-v3", "doom_paper": "VizdoomTakeCover-v1"}
    rows = []
    for name, title in names.items():
        errors = read(name)["horizons"]
        for key, pixels in PIXELS[:2]:
            cells = (number(ratio(errors[horizon], key), 2) for horizon in horizons)
            rows.append([f"{title}, {pixels} pixels", *cells])
    return markdown(["", "1 step", *horizons[1:]], rows) + source(*names)


RECALLED = {  # by the names of files
    "freeway_demo": "Freeway, the demo",
    "freeway_demo_mode_3": "the same, other traffic",
    "pong_pretrained": "Pong, pretrained",
}


def recall() -> str:
    """Errors over those of recall, and of the mean frame; what recall has seen."""
    heads = ["", "frames seen", "all, 5 steps", "10", "30", "50", "100", "over mean frame, 30"]
    heads += ["controlled, 5", "30", "100", "object at 30", "in recall"]
    rows = []
    for name, title in RECALLED.items():
        result = read(name)
        cells = [f"{100 * result['overlap']:.0f} %"]
        for key, horizons in (
            ("ratio_recall", ("5", "10", "30", "50", "100")),
            ("ratio_mean_frame", ("30",)),
            ("ratio_controlled_recall", ("5", "30", "100")),
        ):
            for horizon in horizons:
                row = result["horizons"][horizon]
                interval = row["intervals"].get(key)
                cells.append(
                    _with_interval(row[key], interval, 2) if interval else number(row[key], 2)
                )
        row = result["horizons"]["30"]
        for guess in ("", "_recall"):
            present, offset = row[f"object_present{guess}"], row[f"object_offset{guess}"]
            cells.append(f"{100 * present:.0f} %, {offset:.1f} off" if present else "-")
        rows.append([title, *cells])
    return markdown(heads, rows) + source(*RECALLED)


def play() -> str:
    """What the players that record data sets earn, and how fast they decide."""
    content = read("players")
    names = [*next(iter(content["games"].values()))]
    rows = [
        [TITLES[game], *(f"{players[name]['return']:,.1f}" for name in names)]
        for game, players in content["games"].items()
    ]
    speeds = [
        [one[name]["decisions_per_second"] for one in content["games"].values()] for name in names
    ]
    cells = (f"{min(each):,.0f} to {max(each):,.0f}" for each in speeds)
    rows.append(["decisions a second and core", *cells])
    count, epsilon = content["num_episodes"], content["epsilon"]
    note = f"Whole games of each player: {count}. Two look ahead; their epsilon is {epsilon}."
    return markdown(["", *(f"`{name}`" for name in names)], rows) + source("players", note=note)


def pooled_frames() -> str:
    """The share of steps in which screens of so many frames miss an object, in some games."""
    content = read("flicker")
    games = content["games"]
    order = sorted(games, key=lambda game: -games[game]["missing"]["2"])
    rows = [
        [
            f"`{game}`",
            *(
                f"{100 * games[game]['missing'][count]:.0f} %"
                for count in ("1", "2", "3", "4", "6")
            ),
            str(games[game]["pooled_frames"]),
        ]
        for game in order
        if games[game]["missing"]["2"] >= 0.03
    ]
    heads = ["", "1 frame", "2", "3", "4", "6", "the game's own number"]
    note = f"{content['num_steps']:,} steps of {content['policy']} play."
    return markdown(heads, rows) + source("flicker", note=note)


TABLES: dict[str, Callable[..., str]] = {
    "at_a_glance": at_a_glance,
    "rewards": reward_table,
    "returns": returns,
    "full_frames": full_frames,
    "default_training": default_training,
    "planning": planning,
    "players": players,
    "pretraining": pretraining,
    "experiment": experiment,
    "environments": environments,
    "pooled_frames": pooled_frames,
    "play": play,
    "recall": recall,
    "parameters": network_parameters,
    "layers": layers,
    "stages": stages,
    **shipped_tables.TABLES,
    **agent_tables.TABLES,
    **speed_tables.TABLES,
    **quality_table.TABLES,
}
