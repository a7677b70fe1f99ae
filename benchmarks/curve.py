"""Writes how losses and errors fell in a training, by the clock, as JSON for `benchmarks.plots`.

It reads the TensorBoard logs of all stages in a directory, such as those of `make demo`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.pages import ratio
from systems.arguments import TRAINED, Parser
from systems.errors import InputError, check_writable, exit_on_input_error, say, user_path
from utils.config import read_config
from utils.training.phases import PREFIXES, STAGES

HORIZONS = (1, 10, 30)
PRETRAINING = "pretraining/"  # what tags of pretraining begin with


def main() -> None:
    """Writes by the command line's flags."""
    args = parser().parse_args()
    with exit_on_input_error():
        check_writable(args.json)
        from systems.files import write_json
        from systems.provenance import made

        write_json(args.json, {"made": made(), **curve(args.stages, args.variant)})
        say(f"wrote {args.json}")


def parser() -> Parser:
    """The command line."""
    command = "python -m benchmarks.curve"
    parser = Parser(
        __doc__,
        prog=command,
        examples=[f"{command} --stages {TRAINED} --json docs/results/demo.json"],
    )
    add = parser.add_argument
    add("--stages", required=True, type=user_path, metavar="DIR", help="where the stages lie")
    add("--variant", choices=PREFIXES, help="whose stages, where those of both lie there")
    add("--json", required=True, type=user_path, metavar="FILE", help="what is written")
    return parser


def curve(directory: Path, variant: str | None = None) -> dict:
    """What all stages of a variant have logged, in minutes since the first one began.

    Args:
        directory: of the stages, such as `demo/checkpoints/freeway/lstm_84x84x1`.
        variant: "paper" or "compression"; None: the first whose stages there are.

    Returns:
        dict of stages: name, began and ended, in minutes, and minutes, how long it has run between
        them; errors on test play, by horizon, over those of repeating the last frame (None where
        that has none), and num_windows, on which they were measured; loss: [minute, value] of
        pretraining; and errors: by horizon, [minute, value] over that of repeating the last frame.

    Raises:
        InputError: there is no such log.
    """
    logs = []
    # Not by a pattern, which an agent beside its stage would match.
    for prefix in [PREFIXES[variant]] if variant else PREFIXES.values():
        if not logs:
            logs = [
                found for stage in STAGES if (found := _logged(directory / f"{prefix}_{stage}"))
            ]
    if not logs:
        raise InputError(f"expected stages with logs in {directory}, found none. Train there first")
    logs = [(name, sorted(itertools.chain(*files)), files) for name, files in logs]
    began = logs[0][1][0][0]

    def minutes(time):
        return round((time - began) / 60, 3)

    def ratios(horizon):
        points = []
        for _, events, _ in logs:
            errors = {}
            for time, tag, value, step in events:
                for prefix in (PRETRAINING, ""):
                    name = f"{prefix}error_at_step_{horizon}/mse"
                    if tag in (name, f"{name}_repeat_last"):
                        errors.setdefault((prefix, step), {})[tag == name] = time, value
            for pair in errors.values():
                if len(pair) == 2 and pair[False][1]:
                    points.append([minutes(pair[True][0]), pair[True][1] / pair[False][1]])
        return points

    return {
        "stages": [
            {
                "name": name,
                "began": minutes(events[0][0]),
                "ended": minutes(events[-1][0]),
                "minutes": round(
                    run_seconds([event[0] for event in file] for file in files) / 60, 3
                ),
                **_of_test_play(directory / name),
            }
            for name, events, files in logs
        ],
        "loss": [
            [minutes(time), value]
            for _, events, _ in logs
            for time, tag, value, _ in events
            if tag == "pretraining_loss"
        ],
        "errors": {str(horizon): ratios(horizon) for horizon in HORIZONS},
    }


def run_seconds(files: Iterable[Sequence[float]]) -> float:
    """How long a stage has run: without the time between a stop and the next resumption.

    Args:
        files: the times of each process' events, in seconds. Each has a file of its own.
    """
    return sum(max(times) - min(times) for times in files)


def _of_test_play(stage):
    """What a stage's last lines of output say of its test play; nothing before that."""
    results = read_config(stage).results or {"horizons": {}, "num_windows": 0}
    rows = results["horizons"].items()
    errors = {horizon: ratio(row, "mse") for horizon, row in rows}
    return {"errors": errors, "num_windows": results["num_windows"]}


def _logged(stage):
    """A stage's name and the events of each of its files: time, tag, value and step.

    None if it has logged nothing.
    """
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.util.tensor_util import make_ndarray

    files = []
    for file in sorted(stage.glob("logs/events.*")):
        events = []
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "scalars":
                    number = float(make_ndarray(value.tensor))
                    events.append((event.wall_time, value.tag, number, event.step))
            if not event.summary.value:
                events.append((event.wall_time, "", 0.0, event.step))
        files += [events] if events else []
    return (stage.name, files) if files else None


if __name__ == "__main__":
    main()
