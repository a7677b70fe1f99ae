"""Compression model, stage 1 of 4: learns 2 and then 5 steps of linear dynamics."""

from utils.training.stage import Stage, main

STAGE = Stage(
    name="compress_seq_1",
    variant="compression",
    feed_back=False,
    horizon=10,
    decoded=10,
    restore=None,
    learning_rate=2e-5,
    max_steps=20,
    pretraining_steps=5400,
)

if __name__ == "__main__":
    main(STAGE)
