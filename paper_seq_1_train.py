"""Paper model, stage 1 of 4: learns the next frame."""

from utils.training.stage import Stage, main

STAGE = Stage(
    name="paper_seq_1",
    variant="paper",
    feed_back=False,
    horizon=10,
    decoded=10,
    restore=None,
    learning_rate=5e-6,
    max_steps=20,
    pretraining_steps=5625,
)

if __name__ == "__main__":
    main(STAGE)
