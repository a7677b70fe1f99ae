"""Paper model, stage 2 of 4: feeds 3 predicted frames back, from paper_seq_1."""

from utils.training.stage import Stage, main

STAGE = Stage(
    name="paper_seq_3",
    variant="paper",
    feed_back=True,
    horizon=3,
    decoded=3,
    restore="paper_seq_1",
    learning_rate=5e-6,
    max_steps=20,
    pretraining_steps=600,
)

if __name__ == "__main__":
    main(STAGE)
