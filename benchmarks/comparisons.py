"""What is compared with what. Each section yields the rows of the table."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator

from benchmarks import limits
from benchmarks.child import in_new_process
from systems.files import num_cores

SMALL, LARGE = "lstm_84x84x1", "lstm_210x160x3"
BATCH = {SMALL: 16, LARGE: 4}  # as the scripts' own defaults
GPU_BATCH = {SMALL: 256, LARGE: 64}
# States that are imagined from at once. The first is the size that others are compared at.
IMAGINED = (256, 16, 1)
GPU_IMAGINED = (4096, 256, 1)
HORIZON = 20  # imagined steps a call
NUM_ACTIONS = 3  # of Freeway


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
    """Medians of each call's figures. The calls take turns."""
    figures = {name: [] for name in calls}
    for _ in range(rounds):
        for name, (function, arguments) in calls.items():
            figures[name].append(in_new_process(function, **arguments))
    return {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for name, runs in figures.items()
    }


def pretraining(rounds: int, data: str, machine: dict) -> Iterator[dict]:
    """Steps of the first script's pretraining beside PyTorch's, compiled or not."""
    batches = GPU_BATCH if machine["device"] else BATCH
    for model, variant in itertools.product((SMALL, LARGE), ("paper", "compression")):
        work = {"model": model, "variant": variant, "data": data}
        checked = in_new_process("pretrain.agreement", **work)
        tolerance = 1e-2 if machine["device"] else 1e-4
        assert abs(checked["loss"] / checked["peer_loss"] - 1) < tolerance, checked
        work |= {"batch_size": batches[model], "steps": 40}
        theirs = {**work, "precision": machine["precision"]}
        figures = _in_turn(
            rounds,
            ours=("pretrain.ours", work),
            compiled=("pretrain.pytorch", {**theirs, "compiled": True}),
            eager=("pretrain.pytorch", {**theirs, "compiled": False}),
        )
        rates = {name: 1 / figure["seconds"] for name, figure in figures.items()}
        better = max(("compiled", "eager"), key=rates.get)
        name = f"pretraining, {model}, {variant} (steps/s)"
        yield _row(name, rates["ours"], rates[better], f"PyTorch, {better}")


def training(rounds: int, data: str, machine: dict) -> Iterator[dict]:
    """Training steps beside PyTorch's and those of 2016."""
    gpu = machine["device"]
    for model, variant in ((SMALL, "compression"), (LARGE, "compression"), (SMALL, "paper")):
        work = {"model": model, "variant": variant, "data": data}
        if not gpu:  # a GPU's float32 products are rounded to fewer digits
            _require_agreement(in_new_process("train.agreement", **work))
        batch = (GPU_BATCH if gpu else BATCH)[model]
        work |= {"batch_size": batch, "steps": 200 if gpu else 30}
        theirs = {**work, "precision": machine["precision"]}
        calls = {"ours": ("train.ours", work), "torch": ("train.pytorch", theirs)}
        if model == SMALL and not gpu:
            calls["2016"] = ("train.way_of_2016", {**work, "steps": 10})
        figures = _in_turn(rounds, **calls)
        name = f"training, {model}, {variant}, batch {batch}"
        flops = limits.train_flops(model, NUM_ACTIONS, batch, 10, 5, variant)
        ours = 1 / figures["ours"]["seconds"]
        limit = machine[machine["precision"]] / flops
        yield _row(f"{name} (steps/s)", ours, 1 / figures["torch"]["seconds"], "PyTorch", limit)
        if "2016" in calls:
            yield _row(f"{name} (steps/s)", ours, 1 / figures["2016"]["seconds"], "2016")
        yield _row(f"{name}: peak memory (GB)", figures["ours"]["peak_memory"] / 1e9)
        yield _row(f"{name}: first step after (s)", figures["ours"]["first_step"])


def _require_agreement(checked):
    """Both networks have the same parameters and predict the same."""
    assert checked["parameters"] == checked["peer_parameters"], checked
    assert checked["frames_difference"] < 1e-3 * checked["largest"], checked
    assert checked["heads_difference"] < 1e-3, checked


def imagination(rounds: int, data: str, machine: dict) -> Iterator[dict]:
    """Imagined steps beside PyTorch's, the emulator's and the vector environment's."""
    weights = {
        variant: in_new_process("imagine.hand_over", model=SMALL, variant=variant, data=data)
        for variant in ("compression", "paper")
    }
    sizes = GPU_IMAGINED if machine["device"] else IMAGINED
    for batch in sizes:
        work = _imagined(data, machine, batch, decoded=False) | weights["compression"]
        yield from _latent_imagination(rounds, work, machine, batch == sizes[0])
    work = _imagined(data, machine, 16, decoded=True) | weights["compression"]
    figures = _in_turn(
        rounds,
        compression=("imagine.ours", {**work, "variant": "compression"}),
        paper=("imagine.ours", {**work, "variant": "paper"} | weights["paper"]),
        torch=("imagine.pytorch", work),
    )
    rates = {key: HORIZON * 16 / value["seconds"] for key, value in figures.items()}
    flops = limits.imagine_flops(SMALL, NUM_ACTIONS, 16, True)
    name = "imagination with frames, batch 16 (steps/s)"
    limit = 16 * machine[machine["precision"]] / flops
    yield _row(name, rates["compression"], rates["torch"], "PyTorch", limit)
    yield _row(name, rates["compression"], rates["paper"], "our paper variant")


def _latent_imagination(rounds, work, machine, beside_others):
    """Imagination without frames; `beside_others` than PyTorch too, if that is asked for."""
    batch, of_ours = work["batch_size"], {**work, "variant": "compression"}
    calls = {"ours": ("imagine.ours", of_ours), "torch": ("imagine.pytorch", work)}
    if beside_others:
        calls["whole"] = ("imagine.ours", {**of_ours, "weights": None})
        play = {"num_frames": 3000, "num_workers": num_cores()}
        calls["emulator"] = ("record.emulator", play)
        kept = ("model", "batch_size", "horizon", "data", "weights")
        calls["env"] = ("imagine.vector_env", {key: work[key] for key in kept})
    figures = _in_turn(rounds, **calls)
    rates = {key: HORIZON * batch / figures[key]["seconds"] for key in ("ours", "torch")}
    if batch == 1:
        size = {"bfloat16": 2, "float32": 4}[machine["precision"]]
        seconds = size * limits.core_weights(SMALL, NUM_ACTIONS) / machine["bandwidth"]
        limit = 1 / seconds
    else:
        flops = limits.imagine_flops(SMALL, NUM_ACTIONS, batch, False)
        limit = batch * machine[machine["precision"]] / flops
    name = f"imagination, latent, batch {batch} (steps/s)"
    yield _row(name, rates["ours"], rates["torch"], "PyTorch", limit)
    if beside_others:
        whole = HORIZON * batch / figures["whole"]["seconds"]
        yield _row(name, rates["ours"], whole, "a network trained as a whole")
        yield _row(name, rates["ours"], figures["emulator"]["frames_per_second"], "emulator")
        stepped = HORIZON * batch / figures["env"]["seconds"]
        env_name = f"vector environment, latent, batch {batch} (steps/s)"
        yield _row(env_name, stepped, rates["ours"], "imagination alone")


def _imagined(data, machine, batch, decoded):
    """The arguments of `imagine.pytorch`."""
    return {
        "model": SMALL,
        "batch_size": batch,
        "horizon": HORIZON,
        "decoded": decoded,
        "precision": machine["precision"],
        "data": data,
    }


def data_loading(rounds: int, data: str, machine: dict) -> Iterator[dict]:
    """Batches read beside batches that training takes."""
    for model in (SMALL, LARGE):
        work = {"model": model, "batch_size": BATCH[model], "data": data}
        figures = _in_turn(
            rounds,
            data=("data.ours", work),
            train=("train.ours", {**work, "variant": "compression", "steps": 10}),
        )
        yield _row(
            f"data loading, {model} (batches/s)",
            1 / figures["data"]["seconds"],
            1 / figures["train"]["seconds"],
            "what training takes",
        )


def recording(rounds: int, data: str, machine: dict) -> Iterator[dict]:
    """Recorded steps beside the bare emulator's."""
    frames = 10_000
    figures = _in_turn(
        rounds,
        one=("record.ours", {"num_frames": frames, "num_workers": 1}),
        two=("record.ours", {"num_frames": 2 * frames, "num_workers": 2}),
        emulator=("record.emulator", {"num_frames": frames}),
    )
    one, two, bare = (figures[key]["frames_per_second"] for key in ("one", "two", "emulator"))
    yield _row("recording, one worker (frames/s)", one, bare, "bare emulator")
    yield _row("recording, two workers (frames/s)", two, one, "one worker")


COMPARISONS = {
    "pretrain": pretraining,
    "train": training,
    "imagine": imagination,
    "data": data_loading,
    "record": recording,
}
