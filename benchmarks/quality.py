"""The quality of predictions beside peers: the same data, windows, cores and minutes.

    ours      the paper variant by its own scripts: pretraining by Muon, then the first three stages
    2016      the same network and stages by Adam from random weights; the encoder trained along
    oh        the action after the LSTM, trained as Oh et al. did: `benchmarks.peer_oh`
    rssm      a recurrent state-space model with discrete latents: `benchmarks.peer_rssm`

Ours goes first. Its lengths are scaled to fill the minutes, by the pace of a short trial. The two
peers of other architectures then get the seconds that ours took. Rewards are left out for all.
What a clock holds is said in `benchmarks.quality_child`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from benchmarks.child import in_new_process
from systems.controlled import find_controlled
from systems.dataset import CONTROLLED, Dataset
from systems.errors import InputError, say
from systems.files import write_json
from systems.provenance import made
from systems.record import record
from systems.version import commit
from utils.config import CheckpointConfig, TrainingConfig
from utils.training.command_line import ROLES, StageConfig, parse
from utils.training.stage import Stage, script_module

GAMES = ("pong", "ms_pacman")
POLICY = "persistent:0.5,skilled:0.5"
MODEL = "lstm_84x84x1"
HORIZONS = (1, 5, 10, 30)
NUM_WINDOWS = 256
WARMUP = 10


@dataclass(frozen=True)
class Length:
    """How many steps a stage takes, relative to the others of its training."""

    stage: str
    max_steps: int
    pretraining_steps: int = 0
    flags: tuple[str, ...] = ()


def _facts(stage: str) -> Stage:
    return import_module(script_module(stage)).STAGE


def _defaults(stage: str) -> Length:
    facts = _facts(stage)
    return Length(stage, facts.max_steps, facts.pretraining_steps)


# What a stage needs where nothing is pretrained. It may not stop before its time.
_FROM_RANDOM = ("--encoder_rate=1", "--control_weight=0", "--patience=1000000")
STAGED: dict[str, tuple[Length, ...]] = {
    "ours": tuple(_defaults(f"paper_seq_{number}") for number in (1, 3, 5)),
    # Lengths and rates by which this network first learned, before there was pretraining.
    "2016": (
        Length("paper_seq_1", 600, flags=(*_FROM_RANDOM, "--learning_rate=1e-3")),
        Length("paper_seq_3", 200, flags=(*_FROM_RANDOM, "--learning_rate=5e-4")),
        Length("paper_seq_5", 700, flags=(*_FROM_RANDOM, "--learning_rate=5e-4")),
    ),
}
OTHERS = ("oh", "rssm")
TRIAL = 12  # steps of each stage in a trial; four times as many of pretraining


@dataclass(frozen=True)
class Settings:
    """What all models have in common.

    Attributes:
        game: canonical name.
        num_training_frames: of the training set, by seed 1; validation and test have 2 and 3.
        minutes: of each model.
        data_path: where data sets lie.
        model: preset of our network, whose frames all models predict.
        batch_size: of the stages; None: theirs.
        num_windows: that are scored, as far as the data goes.
        horizons: steps that are scored.
        rssm: sizes that are not the peer's own, see `benchmarks.peer_rssm.Sizes`.
    """

    game: str
    num_training_frames: int
    minutes: float
    data_path: Path
    model: str = MODEL
    batch_size: int | None = None
    policy: str = POLICY
    num_windows: int = NUM_WINDOWS
    horizons: tuple[int, ...] = HORIZONS
    rssm: Mapping[str, int] = field(default_factory=dict)

    def flags(self, train_dir: Path) -> list[str]:
        """Of a stage's script."""
        shared = ("model", "num_training_frames", "policy")
        flags = [f"--{name}={getattr(self, name)}" for name in shared]
        flags += [f"--atari_game={self.game}", f"--train_dir={train_dir}"]
        flags.append(f"--data_path={self.data_path.absolute()}")
        return flags + ([f"--batch_size={self.batch_size}"] if self.batch_size else [])

    def stage_config(self, stage: str, train_dir: Path) -> StageConfig:
        """A stage's, which knows where the data sets and its own files lie."""
        return parse(_facts(stage), self.flags(train_dir))


def measure(
    games: Sequence[str],
    make_settings: Callable[[str], Settings],
    output: Path | None,
) -> list[dict]:
    """Trains and scores all models in some games, and prints a line of each.

    Args:
        games: canonical names.
        make_settings: what holds in a game.
        output: JSON file. What it has of the same settings is not measured again, and what it has
            of other games is kept.

    Returns:
        the rows: game, model, settings, commit, seconds, steps, parameters, multiplications,
        horizons and overlap.

    Raises:
        InputError: the file holds something else, PyTorch is missing, or data cannot be made.
    """
    rows = _rows_of(output)
    if "rssm" in OTHERS and find_spec("torch") is None:
        raise InputError(
            "expected PyTorch, which a peer is written in, but it is not installed. Install it: "
            "pip install -r benchmarks/requirements.txt"
        )
    _require_no_gpu()
    for game in games:
        settings = make_settings(game)
        known = {"game": game, "settings": _as_json(settings), "machine": made()["machine"]}
        rows = comparable(rows, known)
        for row in _rows_of_game(settings, [row for row in rows if row["game"] == game]):
            rows.append({**known, **row})
            say(line(row))
            if output:
                write_json(output, {"made": about(rows), "rows": rows})
    return rows


def comparable(rows: list[dict], known: dict) -> list[dict]:
    """The rows without those that must not stand beside new ones.

    Args:
        rows: of any games.
        known: game, settings and machine of the new ones. Older rows lack the machine.
    """
    return [
        row
        for row in rows
        if row["game"] != known["game"] or known.items() <= {**known, **row}.items()
    ]


def about(rows: list[dict]) -> dict:
    """What is to be said of rows: all commits and machines that they come from."""
    result = made(training=1, test=3, weights=0)
    for key in ("commit", "machine"):
        found = {row[key] for row in rows if row.get(key)}
        result[key] = ", ".join(sorted(found)) or None
    return result


def _require_no_gpu():
    """Raises InputError where ours would compute on a GPU, because a peer cannot."""
    if find_spec("torch") is not None and import_module("torch").cuda.is_available():
        raise InputError(
            "expected a machine on which all models compute on the processor, received one with a "
            "GPU. Hide it: CUDA_VISIBLE_DEVICES="
        )


def line(row: dict) -> str:
    """A row as text: minutes, steps, and errors over those of repeating the last frame."""
    errors = ", ".join(
        f"{errors['ratio']:.3f} at {horizon}" for horizon, errors in row["horizons"].items()
    )
    return (
        f"{row['game']}, {row['model']}: {row['seconds'] / 60:.1f} minutes, "
        f"{row['steps']:,} steps, error {errors}"
    )


def _rows_of(output):
    if output is None or not output.exists():
        return []
    try:
        return [*json.loads(output.read_text())["rows"]]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(
            f"expected figures of --only=quality in {output}, or no such file, received another "
            "one. Name another by --json."
        ) from error


def _as_json(settings):
    """The settings and the stages' lengths, but for where the data lie, as a file has them."""
    lengths = {name: [asdict(each) for each in stages] for name, stages in STAGED.items()}
    kept = asdict(settings) | {"stages": lengths}
    del kept["data_path"]
    return json.loads(json.dumps(kept))


def _rows_of_game(settings: Settings, known: list[dict]):
    """Measures each model that is not among the known rows, in turn."""
    measured = {row["model"]: row for row in known}
    with tempfile.TemporaryDirectory() as directory:
        directory = Path(directory)
        data = _make_data(settings.stage_config(STAGED["ours"][0].stage, directory))
        reference = _reference(directory / "reference", settings, data)
        scored = {"horizons": [*settings.horizons], "num_windows": settings.num_windows}
        windows = directory / "windows.npz"

        def row(name, trained, checkpoint=reference, predictions=None):
            results = in_new_process(
                "quality_child.score",
                checkpoint=str(checkpoint),
                predictions=predictions and str(predictions),
                **scored,
            )
            kept = {key: results[key] for key in ("num_windows", "overlap", "horizons")}
            of = {"game": settings.game, "model": name, "commit": commit()}
            measured[name] = {**of, **trained, **kept}
            return measured[name]

        for name, lengths in STAGED.items():
            if name not in measured:
                say(f"{settings.game}, {name}: training for {settings.minutes:g} minutes")
                trained = _train_stages(settings, lengths, directory / name, data)
                last = settings.stage_config(lengths[-1].stage, directory / name)
                yield row(name, trained, last.directory)
        for name in OTHERS:
            if name not in measured:
                if not windows.exists():
                    arguments = {**scored, "checkpoint": str(reference), "path": str(windows)}
                    in_new_process("quality_child.export", **arguments)
                seconds = measured["ours"]["seconds"]
                say(f"{settings.game}, {name}: training for {seconds / 60:.1f} minutes, as ours")
                predictions = directory / f"{name}.npz"
                more = {"sizes": dict(settings.rssm)} if name == "rssm" else {}
                trained = in_new_process(
                    f"quality_child.{name}",
                    training=data["training"],
                    model=settings.model,
                    seconds=seconds,
                    exported=str(windows),
                    predictions=str(predictions),
                    **more,
                )
                yield row(name, trained, predictions=predictions)


def _make_data(config: StageConfig) -> dict[str, str]:
    """Records what is missing; returns the data set's directory by role."""
    data = {}
    for role in ROLES:
        count, seed = config.num_frames(role), config.data_seed(role)
        directory = record(config.game, config.policy, count, seed, config.data_path)
        if role != "test" and not (directory / CONTROLLED).exists():
            find_controlled(directory)
        data[role] = str(directory)
    return data


def _reference(directory: Path, settings: Settings, data: Mapping[str, str]) -> Path:
    """A checkpoint without weights: it names the data, frames and warm-up that are scored by."""
    training_set = Dataset(data["training"])
    training = TrainingConfig(
        feed_back=True,
        horizon=5,
        decoded=5,
        batch_size=1,
        learning_rate=0.0,
        pretraining_steps=0,
        encoder_rate=0.0,
        termination_rate=0.0,
        control_weight=0.0,
        reward_weight=0.0,
        max_steps=0,
        patience=0,
        steps_per_epoch=1,
        seed=0,
        precision="float32",
    )
    directory.mkdir()
    CheckpointConfig(
        stage="reference",
        variant="paper",
        game=settings.game,
        model=settings.model,
        action_meanings=tuple(training_set.action_meanings),
        warmup=WARMUP,
        frame_skip=training_set.frame_skip,
        pooled_frames=training_set.pooled_frames,
        emulator=training_set.emulator,
        training=training,
        data=dict(data),
    ).write(directory)
    return directory


def _train_stages(settings, lengths: Sequence[Length], train_dir: Path, data) -> dict:
    """Trains stages one after the other, as long as the minutes allow by their pace in a trial."""
    trial = [
        Length(length.stage, TRIAL, 4 * TRIAL if length.pretraining_steps else 0, length.flags)
        for length in lengths
    ]
    pace = _run(settings, trial, train_dir.with_name(f"{train_dir.name}_trial"))
    scale = scale_to(60 * settings.minutes, lengths, pace)
    scaled = [
        Length(
            length.stage,
            max(1, round(scale * length.max_steps)),
            # Each of its phases needs a step.
            max(4, round(scale * length.pretraining_steps)) if length.pretraining_steps else 0,
            length.flags,
        )
        for length in lengths
    ]
    done = _run(settings, scaled, train_dir)
    return {
        "seconds": sum(stage["seconds"] for stage in done),
        "steps": sum(steps for stage in done for steps, _ in stage["epochs"]),
        "lengths": [[each.stage, each.pretraining_steps, each.max_steps] for each in scaled],
        **_size(settings.model, len(Dataset(data["training"]).action_meanings)),
    }


def _run(settings, lengths, train_dir):
    """What `quality_child.stage` says of each."""
    return [
        in_new_process(
            "quality_child.stage",
            name=length.stage,
            flags=[
                *settings.flags(train_dir),
                *length.flags,
                f"--max_steps={length.max_steps}",
                f"--pretraining_steps={length.pretraining_steps}",
            ],
        )
        for length in lengths
    ]


def scale_to(seconds: float, lengths: Sequence[Length], pace: Sequence[Mapping]) -> float:
    """By what the lengths are to be multiplied so that all stages together take so long.

    Args:
        seconds: of all of them.
        lengths: of the stages, unscaled.
        pace: of the stages in a trial, see `benchmarks.quality_child.stage`.
    """
    beside, by_steps = 0.0, 0.0
    for length, stage in zip(lengths, pace, strict=True):
        epochs = stage["epochs"]
        beside += stage["seconds"] - sum(steps * each for steps, each in epochs)
        *pretraining, (_, each) = epochs
        by_steps += length.max_steps * each
        trained = sum(steps for steps, _ in pretraining)
        # The phases of pretraining have the same shares of it in a trial.
        by_steps += sum(
            length.pretraining_steps * steps / trained * each for steps, each in pretraining
        )
    return max(seconds - beside, 0) / by_steps


def _size(model, num_actions):
    """Parameters that frames are predicted by, and multiplications of a step, of our network."""
    from model.operations import multiplications, parameters
    from model.presets import PRESETS

    counted = parameters(PRESETS[model], num_actions)
    _, encoder, decoder, core = multiplications(PRESETS[model], num_actions)
    return {
        "parameters": sum(counted) - counted.heads,
        "multiplications": encoder + decoder + core,
    }
