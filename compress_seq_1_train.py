"""Compression model, stage 1 of 4: pretraining, then 10 predictions one step ahead."""

from utils.training.stage import Stage, main

STAGE = Stage(
    name="compress_seq_1",
    variant="compression",
    feed_back=False,
    horizon=10,
    decoded=10,
    restore=None,
    learning_rate=2e-5,
    max_steps=50,
    pretraining_steps=18000,
)

if __name__ == "__main__":
    main(STAGE)
