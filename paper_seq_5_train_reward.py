"""Paper model, stage 4 of 4: 5 fed back and the reward, from paper_seq_5's weights."""

from utils.stages import Stage, main

STAGE = Stage(
    name="paper_seq_5_reward",
    variant="paper",
    predict=5,
    restore="paper_seq_5",
    learning_rate=2e-5,
    max_steps=300,
    termination_rate=100.0,
    reward_weight=0.02,
)

if __name__ == "__main__":
    main(STAGE)
