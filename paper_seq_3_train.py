"""Paper model, stage 2 of 4: 3 predictions fed back, from paper_seq_1's weights."""

from utils.stages import Stage, main

STAGE = Stage(
    name="paper_seq_3",
    variant="paper",
    predict=3,
    restore="paper_seq_1",
    learning_rate=2e-5,
    max_steps=50,
)

if __name__ == "__main__":
    main(STAGE)
