"""Paper model, stage 3 of 4: 5 predictions fed back, from paper_seq_3's weights."""

from utils.stages import Stage, main

STAGE = Stage(
    name="paper_seq_5",
    variant="paper",
    predict=5,
    restore="paper_seq_3",
    learning_rate=2e-5,
    max_steps=300,
)

if __name__ == "__main__":
    main(STAGE)
