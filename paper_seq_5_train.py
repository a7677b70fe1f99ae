"""Paper model, stage 3 of 4: feeds 5 predicted frames back, from paper_seq_3."""

from utils.training.stage import Stage, main

STAGE = Stage(
    name="paper_seq_5",
    variant="paper",
    feed_back=True,
    horizon=5,
    decoded=5,
    restore="paper_seq_3",
    learning_rate=5e-6,
    max_steps=50,
    pretraining_steps=1275,
)

if __name__ == "__main__":
    main(STAGE)
