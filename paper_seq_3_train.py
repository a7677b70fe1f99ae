"""Paper model, stage 2 of 4: feeds 3 predicted frames back, from paper_seq_1.

Pretraining feeds 5 frames back already. So this stage only checks that: it keeps what it began with
unless the validation loss falls.
"""

from utils.training.stage import Stage, main

STAGE = Stage(
    name="paper_seq_3",
    variant="paper",
    feed_back=True,
    horizon=3,
    decoded=3,
    restore="paper_seq_1",
    learning_rate=5e-6,
    max_steps=50,
)

if __name__ == "__main__":
    main(STAGE)
