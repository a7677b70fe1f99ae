"""The tables of README and docs that are about time, memory and speed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

from benchmarks.pages import by_speed, clock, copied, markdown, number, read, source
from systems.errors import InputError
from utils.training.phases import STAGES

# How tables name what `python -m benchmarks` calls so.
PEERS = {"2016": "Keras, frame by frame, float32"}
# Columns of the table of a curriculum's time, of what `benchmarks.clock` tells apart.
PARTS = {
    "imports": ("imports",),
    "compilation": ("compilation",),
    "data": ("recording", "network and data"),
    "controlled pixels": ("controlled pixels",),
    "pretraining": ("pretraining",),
    "handover": ("handover",),
    "training": ("training",),
    "measuring": ("validation", "evaluation", "TensorBoard"),
    "saving and the rest": ("saving", "rest"),
}


def machines() -> str:
    """What the letters of machines stand for."""
    heads = ["machine", "stands for", "processor", "matrix products, memory"]
    return markdown(
        heads,
        [
            [letter, machine["stands for"], machine["processor"], machine["rates"]]
            for letter, machine in read("machines").items()
        ],
    )


def times() -> str:
    """How long the four stages take, by the clock."""
    heads = ["", "machine", *(f"`{stage}`" for stage in STAGES), "minutes in all", "beside it"]
    kept = read("times")
    rows = [
        [
            row["what"],
            row["machine"],
            *map(clock, row["seconds"]),
            f"{sum(row['seconds']) / 60:.0f}",
            row["beside"],
        ]
        for row in kept["rows"]
    ]
    commits = ", ".join(row["commit"] for row in kept["rows"])
    dates = " and ".join(sorted({row["date"] for row in kept["rows"]}))
    made = {"commit": commits, "date": dates, "machine": "as above", "note": kept["note"]}
    return markdown(heads, rows) + copied("times", made)


def i_have() -> str:
    """Which command suits which machine, and how long it takes there."""
    kept = read("times")
    gpu = [row["seconds"] for row in kept["pretraining"]["rows"] if "paper" in row["what"]]
    page = "docs/performance.md"
    colour, laptop = _minutes_in_all("full_frames_paper"), _laptops_minutes()
    train = "`make train GAME=ms_pacman VARIANT=compression`"
    rows = [
        [
            "two cores with bfloat16",
            train,
            f"[{_curriculum_minutes():.0f} minutes, and recording]({page}#training-time)",
        ],
        [
            "a laptop without bfloat16",
            train,
            f"[some {laptop:.0f} minutes, and recording]({page}#training-time)",
        ],
        [
            "two cores, for full frames",
            "the paper variant's commands of 2016, below",
            f"[{colour:.0f} minutes](docs/results.md#the-commands-of-2016)",
        ],
        [
            "one GPU",
            f"[`paper_seq_1_train.py --pretraining_steps=15000` on JAX]({page}#on-a-gpu)",
            _minutes(gpu),
        ],
        [
            "several machines",
            f"[one process each, on JAX]({page}#several-devices)",
            "not measured",
        ],
    ]
    return markdown(["I have", "command", "time"], rows)


def demo_times() -> str:
    """How long the demo takes, until its last stage ends."""
    rows = [
        [what, number(_minutes_in_all(name), 1)]
        for what, name in (
            ("two idle cores, bfloat16", "demo"),
            ("a training on one of the two cores", "demo_beside"),
            ("two idle cores, float32", "demo_float32"),
            ("two idle cores without AVX-512", "demo_avx2"),
        )
    ]
    sources = source("demo", "demo_beside", "demo_float32", "demo_avx2")
    return markdown(["", "minutes"], rows) + sources


def curriculum_time(name: str) -> str:
    """Where the minutes of a variant's four stages go."""
    stages = {f"`{stage}`": seconds for stage, seconds in _seconds(name).items()}
    stages["all"] = {
        part: sum(spent.get(part, 0) for spent in stages.values())
        for part in chain(*PARTS.values())
    }
    rows = []
    for stage, spent in stages.items():
        seconds = [sum(spent.get(part, 0) for part in parts) for parts in PARTS.values()]
        rows.append([stage, *(number(each / 60, 1) for each in (sum(seconds), *seconds))])
    return markdown(["stage", "minutes", *PARTS], rows) + source(name, note="One run.")


def curriculum(name: str) -> str:
    """What each stage of a training made of the errors on test play."""
    stages = [stage for stage in read(name)["stages"] if stage["errors"]]
    horizons = list(stages[0]["errors"])
    rows = []
    for stage in stages:
        errors = (number(stage["errors"][horizon]) for horizon in horizons)
        minutes = stage.get("minutes", stage["ended"] - stage["began"])  # older files lack them
        rows.append([f"`{stage['name']}`", number(minutes, 1), *errors])
    heads = ["after", "minutes", "1 step", *horizons[1:]]
    windows = stages[0].get("num_windows", 128)
    return markdown(heads, rows) + source(name, note=f"{windows} windows. One run.")


def _curriculum_minutes(name="clock_compress"):
    """What the four stages took, without recording."""
    spent = _seconds(name).values()
    return sum(sum(stage.values()) - stage.get("recording", 0) for stage in spent) / 60


def _laptops_minutes():
    """What they would take on machine E, where 6,000 steps of pretraining were timed, not 9,000."""
    name = "clock_compress_e"
    pretraining = sum(stage.get("pretraining", 0) for stage in _seconds(name).values()) / 60
    return _curriculum_minutes(name) + pretraining / 2


def _seconds(name):
    """The seconds by part of each stage; all stages have to be there, or sums are too small."""
    seconds = {row["stage"]: row["seconds"] for row in read(name)["rows"]}
    if list(seconds) != list(STAGES):
        raise InputError(
            f"expected the stages {', '.join(STAGES)} in {name}.json, received "
            f"{', '.join(seconds)}. Run the command that made it to its end."
        )
    return seconds


def _minutes_in_all(name):
    """From the first step of training to the last stage's end."""
    return max(stage["ended"] for stage in read(name)["stages"])


def _minutes(seconds):
    least, most = (f"{each / 60:.0f}" for each in (min(seconds), max(seconds)))
    return f"{least} minutes" if least == most else f"{least} to {most} minutes"


def gpu_pretraining() -> str:
    """How long the full frames' pretraining takes on a GPU."""
    kept = read("times")["pretraining"]
    rows = [[row["what"], clock(row["seconds"])] for row in kept["rows"]]
    return markdown(["full frames, pretraining", "minutes"], rows) + copied("times", kept)


def speed(machine: str) -> str:
    """This code beside its peers, on one machine."""
    name = f"benchmarks_{machine}"
    heads = ["work", "ours", "peer", "of the peer", "ratio", "share of the limit"]
    rows = [
        [
            row["work"],
            by_speed(row["ours"]),
            PEERS.get(row["peer_is"], row["peer_is"]),
            by_speed(row["peer"]),
            number(row["ratio"], 1 if row["ratio"] < 10 else 0),
            number(row["of_the_limit"], 2),
        ]
        for row in read(name)["rows"]
        if row["peer"] is not None
    ]
    return markdown(heads, rows) + source(name, note="")


def costs(machine: str) -> str:
    """What has no peer: memory, and how long until the first step."""
    name = f"benchmarks_{machine}"
    rows = [
        [row["work"], number(row["ours"], 1)] for row in read(name)["rows"] if row["peer"] is None
    ]
    return markdown(["work", "ours"], rows) + source(name, note="")


def peers() -> str:
    """Other people's world models of Atari games, as they state their figures."""
    kept = read("peers")
    speeds = {row["work"]: by_speed(row["ours"]) for row in read("benchmarks_a")["rows"]}
    with_frames = speeds["imagination with frames, batch 16 (steps/s)"]
    latent = speeds["imagination, latent, batch 256 (steps/s)"]
    ours = kept["ours"] | {
        "training": f"{_curriculum_minutes():.0f} minutes on two CPU cores with bfloat16",
        "imagines": f"{with_frames} frames a second on two cores with bfloat16 (16 games), "
        f"{latent} without frames (256 games)",
    }
    columns = ("what", "frames", "kind", "training", "imagines")
    rows = [[row[key] for key in columns] for row in [ours, *kept["rows"]]]
    return markdown(["", "frames", "model", "training", "imagines"], rows)


TABLES: dict[str, Callable[..., str]] = {
    "machines": machines,
    "times": times,
    "i_have": i_have,
    "demo_times": demo_times,
    "curriculum": curriculum,
    "curriculum_time": curriculum_time,
    "gpu_pretraining": gpu_pretraining,
    "speed": speed,
    "costs": costs,
    "peers": peers,
}
