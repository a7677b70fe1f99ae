"""Measures this machine, this software and its peers, and prints one table.

python -m benchmarks [--only train|imagine|data|record] [--output results.json]

Ours and the peer take turns, each in a process of its own; what is printed are medians. The peer is
the same network in PyTorch (torch.compile, fused Adam, bfloat16 autocast where that is faster),
which takes `pip install -r benchmarks/requirements.txt`; "2016" is the same network in Keras run
frame by frame in float32. "Of the limit" is the share of what the machine's matrix products, or its
memory, allow the network as it is written; imagination by one matrix an action needs less and may
pass it.

With KERAS_BACKEND=jax on a machine with an NVIDIA GPU, both sides compute there, larger batches,
and the way of 2016 is left out. TensorFlow need not be installed for that.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import tempfile
from pathlib import Path

from benchmarks import limits
from benchmarks.child import measure
from systems.control import find_controlled
from systems.errors import check_writable, exit_on_input_error, whole_number
from systems.record import record

SMALL, LARGE = "lstm_84x84x1", "lstm_210x160x3"
BATCH = {SMALL: 16, LARGE: 4}  # as the scripts' own defaults
GPU_BATCH = {SMALL: 256, LARGE: 64}
IMAGINED = (256, 16, 1)  # states looked ahead from at once, first the one that others are beside
GPU_IMAGINED = (4096, 256, 1)
NUM_ACTIONS = 3  # of Freeway


def main():
    """Measures by the command line's flags."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", choices=SECTIONS, help="this section alone")
    parser.add_argument("--output", type=Path, help="also write the table as JSON")
    parser.add_argument(
        "--rounds", type=whole_number(1), default=3, help="turns of ours and the peer (3)"
    )
    parser.add_argument(
        "--num_frames", type=whole_number(1000), default=10_000, help="size of the data set (10000)"
    )
    args = parser.parse_args()
    with exit_on_input_error(), tempfile.TemporaryDirectory() as directory:
        if args.output:
            check_writable(args.output)
        data = str(record("freeway", "persistent", args.num_frames, 1, directory))
        find_controlled(data)
        machine = measure("limits.machine")
        about = {
            "date": datetime.date.today().isoformat(),
            "machine": ", ".join(
                filter(None, (machine["device"], f"{_processor()}, {_cores()} cores"))
            ),
            "limits": machine,
        }
        print(
            f"{about['machine']}, {about['date']}: "
            f"{machine['bfloat16'] / 1e9:.0f} GFLOP/s bfloat16, "
            f"{machine['float32'] / 1e9:.0f} float32, {machine['bandwidth'] / 1e9:.0f} GB/s\n"
        )
        heads = f"{'work':62} {'ours':>10} {'peer':>10} {'ratio':>6} {'limit':>6}  peer is"
        print(heads, flush=True)
        rows = []
        for section in [args.only] if args.only else SECTIONS:
            for row in SECTIONS[section](args.rounds, data, machine):
                rows.append(row)
                print(_line(row), flush=True)
        if args.output:
            args.output.write_text(json.dumps({**about, "rows": rows}, indent=2) + "\n")


def _processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _cores():
    has_affinity = hasattr(os, "sched_getaffinity")  # macOS has none
    return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count()


def _line(row):
    def number(value):
        return "" if value is None else f"{value:,.{2 if value < 10 else 1 if value < 100 else 0}f}"

    ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
    limit = "" if row["of_the_limit"] is None else f"{row['of_the_limit']:.2f}"
    return (
        f"{row['work']:62} {number(row['ours']):>10} {number(row['peer']):>10} {ratio:>6} "
        f"{limit:>6}  {row['peer_is'] or ''}"
    )


def _row(work, ours, peer=None, peer_is=None, limit=None):
    return {
        "work": work,
        "ours": ours,
        "peer": peer,
        "peer_is": peer_is,
        "ratio": None if peer is None else ours / peer,
        "of_the_limit": None if limit is None else ours / limit,
    }


def _in_turn(rounds, **calls):
    """Medians of each call's figures; the calls take turns."""
    results = {name: [] for name in calls}
    for _ in range(rounds):
        for name, (function, arguments) in calls.items():
            results[name].append(measure(function, **arguments))
    return {
        name: {key: statistics.median(r[key] for r in runs) for key in runs[0]}
        for name, runs in results.items()
    }


def _train(rounds, data, machine):
    gpu = machine["device"]
    for model, variant in ((SMALL, "compression"), (LARGE, "compression"), (SMALL, "paper")):
        work = {"model": model, "variant": variant, "data": data}
        if not gpu:  # whose float32 products are of shorter numbers
            checked = measure("train.agreement", **work)
            assert checked["parameters"] == checked["peer_parameters"], checked
            assert checked["difference"] < 1e-3 * checked["largest"], checked
            assert checked["told"] < 1e-3, checked
        batch = (GPU_BATCH if gpu else BATCH)[model]
        work |= {"batch_size": batch, "steps": 200 if gpu else 30}
        theirs = {**work, "precision": machine["precision"]}
        calls = {"ours": ("train.ours", work), "torch": ("train.pytorch", theirs)}
        if model == SMALL and not gpu:
            calls["2016"] = ("train.way_of_2016", {**work, "steps": 10})
        found = _in_turn(rounds, **calls)
        name = f"training, {model}, {variant}, batch {batch}"
        flops = limits.train_flops(model, NUM_ACTIONS, batch, 10, 5, variant)
        ours = 1 / found["ours"]["seconds"]
        limit = machine[machine["precision"]] / flops
        yield _row(f"{name} (steps/s)", ours, 1 / found["torch"]["seconds"], "PyTorch", limit)
        if "2016" in calls:
            yield _row(f"{name} (steps/s)", ours, 1 / found["2016"]["seconds"], "2016")
        yield _row(f"{name}: peak memory (GB)", found["ours"]["peak_memory"] / 1e9)
        yield _row(f"{name}: first step after (s)", found["ours"]["first_step"])


def _imagine(rounds, data, machine):
    play = {"num_frames": 3000, "num_workers": _cores()}
    imagined = GPU_IMAGINED if machine["device"] else IMAGINED
    for batch in imagined:
        work = {
            "model": SMALL,
            "batch_size": batch,
            "horizon": 20,
            "decoded": False,
            "precision": machine["precision"],
            "data": data,
        }
        calls = {
            "ours": ("imagine.ours", {**work, "variant": "compression"}),
            "torch": ("imagine.pytorch", work),
        }
        if batch == imagined[0]:
            calls["emulator"] = ("record.emulator", play)
            kept = ("model", "batch_size", "horizon", "data")
            calls["env"] = ("imagine.vector_env", {key: work[key] for key in kept})
        found = _in_turn(rounds, **calls)
        rates = {key: 20 * batch / found[key]["seconds"] for key in ("ours", "torch")}
        if batch == 1:
            size = {"bfloat16": 2, "float32": 4}[machine["precision"]]
            seconds = size * limits.core_weights(SMALL, NUM_ACTIONS) / machine["bandwidth"]
            limit = 1 / seconds
        else:
            flops = limits.imagine_flops(SMALL, NUM_ACTIONS, batch, False)
            limit = batch * machine[machine["precision"]] / flops
        name = f"imagination, latent, batch {batch} (steps/s)"
        yield _row(name, rates["ours"], rates["torch"], "PyTorch", limit)
        if batch == imagined[0]:
            yield _row(name, rates["ours"], found["emulator"]["frames_per_second"], "emulator")
            stepped = 20 * batch / found["env"]["seconds"]
            env_name = f"vector environment, latent, batch {batch} (steps/s)"
            yield _row(env_name, stepped, rates["ours"], "imagination alone")
    work = {"model": SMALL, "batch_size": 16, "horizon": 20, "decoded": True, "data": data}
    work["precision"] = machine["precision"]
    found = _in_turn(
        rounds,
        compression=("imagine.ours", {**work, "variant": "compression"}),
        paper=("imagine.ours", {**work, "variant": "paper"}),
        torch=("imagine.pytorch", work),
    )
    rates = {key: 20 * 16 / value["seconds"] for key, value in found.items()}
    flops = limits.imagine_flops(SMALL, NUM_ACTIONS, 16, True)
    name = "imagination with frames, batch 16 (steps/s)"
    limit = 16 * machine[machine["precision"]] / flops
    yield _row(name, rates["compression"], rates["torch"], "PyTorch", limit)
    yield _row(name, rates["compression"], rates["paper"], "our paper variant")


def _data(rounds, data, machine):
    for model in (SMALL, LARGE):
        work = {"model": model, "batch_size": BATCH[model], "data": data}
        found = _in_turn(
            rounds,
            data=("data.ours", work),
            train=("train.ours", {**work, "variant": "compression", "steps": 10}),
        )
        yield _row(
            f"data loading, {model} (batches/s)",
            1 / found["data"]["seconds"],
            1 / found["train"]["seconds"],
            "what training takes",
        )


def _record(rounds, data, machine):
    frames = 10_000
    found = _in_turn(
        rounds,
        one=("record.ours", {"num_frames": frames, "num_workers": 1}),
        two=("record.ours", {"num_frames": 2 * frames, "num_workers": 2}),
        emulator=("record.emulator", {"num_frames": frames}),
    )
    one, two, bare = (found[key]["frames_per_second"] for key in ("one", "two", "emulator"))
    yield _row("recording, one worker (frames/s)", one, bare, "bare emulator")
    yield _row("recording, two workers (frames/s)", two, one, "one worker")


SECTIONS = {"train": _train, "imagine": _imagine, "data": _data, "record": _record}

if __name__ == "__main__":
    main()
