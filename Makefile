# make play: play Freeway in a trained model. make demo: train all stages on Freeway, with video and
# report. make train GAME=pong VARIANT=compression: the four stages of a variant (MODEL=lstm_210x160x3
# for full frames); the same command goes on where it was stopped. make test: lint and tests.
# make test-fast: lint and the quick ones. make test-all: lint and all of them. make agent
# GAME=freeway: an agent that learns in the compressed game. make agent-again: one round more, with
# what it has played. make agent-emulator: the same agent in the real game, to compare with. All make
# their own virtual environment first.

PYTHON ?= python3
BIN = .venv/bin
GAME = freeway
VARIANT = compression
MODEL = lstm_84x84x1
PRECISION = auto
DEMO = demo/checkpoints/$(GAME)/$(MODEL)
DEMO_FLAGS = --atari_game=$(GAME) --model=$(MODEL) --policy=$(DEMO_PLAYER) \
	--num_training_frames=10000 --data_path=demo/data --train_dir=demo/checkpoints --precision=$(PRECISION)

# Who plays while a game is recorded. Half of the play has skill. The other half has none, so that a
# model also learns what bad play leads to.
PLAYER = persistent:0.5,skilled:0.5
# Plays fast, and moving on is enough in Freeway.
DEMO_PLAYER = $(if $(filter freeway,$(GAME)),persistent,$(PLAYER))
SCRIPTS_paper = paper
SCRIPTS_compression = compress
SCRIPTS = $(or $(SCRIPTS_$(VARIANT)),$(error expected VARIANT=paper or VARIANT=compression, received $(VARIANT)))
TRAIN_FLAGS = --atari_game=$(GAME) --model=$(MODEL) --policy=$(PLAYER)

RESULTS = $(addprefix results-,freeway pong ms_pacman space_invaders)
STAGES = seq_1_train seq_3_train seq_5_train seq_5_train_reward
TRAINED = results/checkpoints/$*/$(MODEL)

SHIPPED = $(addprefix pretrained-,freeway pong ms_pacman space_invaders breakout)

PYTEST = $(BIN)/python -m pytest -q -n auto --dist worksteal
PYTEST_ON_JAX = JAX_DISABLE_MOST_OPTIMIZATIONS=1 KERAS_BACKEND=jax $(PYTEST)
ON_JAX = $(addprefix tests/test_,networks.py optimizer.py fast_imagination.py)
MORE_ON_JAX = $(addprefix tests/test_,pretraining.py predictor.py)

.PHONY: lint test test-all test-fast demo train agent agent-again agent-emulator results recall full-frames play clips figures $(RESULTS) pretrained $(SHIPPED) lunar_lander doom clean

.venv/installed: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@

.venv/installed-dev: .venv/installed requirements-dev.txt
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	touch $@

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Without what repeats another test in a second variant or size, and without trials of minutes. JAX
# compiles the paper variant's loops for long.
test: lint
	$(PYTEST) -m "not thorough"
	$(PYTEST_ON_JAX) -m "not thorough" -k "not paper" $(ON_JAX)

test-all: lint
	$(PYTEST)
	$(PYTEST_ON_JAX) $(ON_JAX) $(MORE_ON_JAX)

# For whoever edits: what takes less than a second or two each, in a minute and a half at most.
test-fast: lint
	$(PYTEST) -m "not slow and not thorough"

play: .venv/installed
	$(BIN)/python play.py

# Less data and fewer steps than by default, because Freeway needs no more to be seen to work.
demo: .venv/installed
	$(BIN)/python paper_seq_1_train.py $(DEMO_FLAGS) --pretraining_steps=750 --max_steps=0
	$(BIN)/python paper_seq_3_train.py $(DEMO_FLAGS) --pretraining_steps=100 --max_steps=0
	$(BIN)/python paper_seq_5_train.py $(DEMO_FLAGS) --pretraining_steps=200 --max_steps=0
	$(BIN)/python paper_seq_5_train_reward.py $(DEMO_FLAGS) --max_steps=1
	$(BIN)/python generate_video.py --checkpoint $(DEMO)/paper_seq_5_reward \
		--video demo/$(GAME).mp4 --video demo/$(GAME).gif
	@$(BIN)/python -m utils.watching.summary $(DEMO)
	@echo "videos: demo/$(GAME).mp4, demo/$(GAME).gif; logs: tensorboard --logdir demo/checkpoints"

train: .venv/installed
	set -e; for stage in $(STAGES); do $(BIN)/python $(SCRIPTS)_$$stage.py $(TRAIN_FLAGS); done
	@$(BIN)/python -m utils.watching.summary checkpoints/$(GAME)/$(MODEL)

# An agent that learns in the compressed game alone, and then plays the real one. SEED=1: another one.
SEED = 0
OTHER = $(if $(filter-out 0,$(SEED)),_seed_$(SEED))
AGENT = checkpoints/pretrained/$(GAME)/$(MODEL)/agent_compress_pretrained$(OTHER)
agent: .venv/installed
	mkdir -p recordings
	$(BIN)/python train_agent.py --pretrained=$(GAME) --seed=$(SEED) --agent=$(AGENT)
	$(BIN)/python evaluate_agent.py --agent=$(AGENT) \
		--json=docs/results/agent_$(GAME)$(OTHER).json --video=recordings/agent_$(GAME)$(OTHER).mp4

# One round more: what the agent does is recorded and joined to what the model has seen. The model's
# pretraining goes on with that, and an agent learns in the new model.
ROUND = data/$(GAME)/round-2-v1
comma = ,
SEEN = $(subst $(comma),-,$(subst .,_,$(subst :,,$(PLAYER))))-$(call FRAMES,$(GAME))-seed1-v2
ROUND_FLAGS = --atari_game=$(GAME) --model=$(MODEL) --policy=$(PLAYER) --training_data=$(ROUND) \
	--num_training_frames=10000 --train_dir=checkpoints/round-2
agent-again: agent
	$(BIN)/python record_agent.py --agent=$(AGENT)
	rm -rf $(ROUND)  # as it may hold another agent's play
	$(BIN)/python -m systems.join --name=round-2 \
		$$(for set in data/$(GAME)/$(SEEN) data/$(GAME)/agent-*; do echo --dataset=$$set; done)
	$(BIN)/python compress_seq_5_train.py $(ROUND_FLAGS) --pretrained --pretraining_steps=1600
	$(BIN)/python compress_seq_5_train_reward.py $(ROUND_FLAGS)
	$(BIN)/python train_agent.py --checkpoint=checkpoints/round-2/$(GAME)/$(MODEL)/compress_seq_5_reward
	$(BIN)/python evaluate_agent.py --json=docs/results/agent_$(GAME)_again.json \
		--agent=checkpoints/round-2/$(GAME)/$(MODEL)/agent_compress_seq_5_reward

# The same agent from the same starts, but the emulator plays: as much as a perfect model would bring.
EMULATOR_STEPS = 400000
agent-emulator: .venv/installed
	$(BIN)/python train_agent.py --pretrained=$(GAME) --simulator=emulator --steps=$(EMULATOR_STEPS) \
		--agent=$(AGENT)_emulator
	$(BIN)/python evaluate_agent.py --agent=$(AGENT)_emulator --json=docs/results/agent_$(GAME)_emulator.json

# Four games, both variants, all stages: some two hours a game on two cores without bfloat16.
# `make results-freeway` makes one game's.
results: $(RESULTS) figures

# The eight commands of 2016 as they stand, on full frames, and what docs/results.md shows of them: two
# to six hours on two cores.
FULL = checkpoints/ms_pacman/lstm_210x160x3
full-frames: .venv/installed
	set -e; for stage in $(foreach variant,paper compress,$(addprefix $(variant)_,$(STAGES))); do \
		$(BIN)/python $$stage.py --atari_game=ms_pacman.bin; \
	done
	set -e; for variant in paper compress; do \
		$(BIN)/python evaluate.py --checkpoint $(FULL)/$${variant}_seq_5_reward --num_windows=64 \
			--json docs/results/ms_pacman_full_$$variant.json; \
	done
	$(BIN)/python -m benchmarks.curve --stages $(FULL) --variant paper \
		--json docs/results/full_frames_paper.json
	$(BIN)/python -m benchmarks.curve --stages $(FULL) --variant compression \
		--json docs/results/full_frames_compress.json
	$(BIN)/python -m benchmarks.clips --video docs/results/ms_pacman_full.gif \
		--checkpoint $(FULL)/paper_seq_5_reward --checkpoint $(FULL)/compress_seq_5_reward

# What replaying the training play would score, beside the demo's model and a shipped one.
RECALL = $(BIN)/python evaluate.py --json docs/results
OTHER_MODE = --atari_game=freeway --policy=persistent --num_frames=10000 --seed=3 --mode=3 --data_path=demo/data
recall: .venv/installed
	$(RECALL)/freeway_demo.json --checkpoint $(DEMO)/paper_seq_5_reward
	$(BIN)/python -m systems.record $(OTHER_MODE)
	$(RECALL)/freeway_demo_mode_3.json --checkpoint $(DEMO)/paper_seq_5_reward \
		--dataset demo/data/freeway/persistent-mode3-10000-seed3-v2
	$(RECALL)/pong_pretrained.json --checkpoint results/pretrained/pong/$(MODEL)/paper_seq_5

# The clips of README and docs, imagined by shipped weights.
clips: .venv/installed
	$(BIN)/python -m benchmarks.clips --video docs/pictures/hero.gif --horizon=24 \
		--pretrained=freeway --pretrained=pong --pretrained=ms_pacman --pretrained=space_invaders
	$(BIN)/python generate_video.py --pretrained=freeway --video docs/pictures/actions.gif --seed=1 \
		--actions='UP*22' --actions='NOOP*22' --actions='DOWN*22'
	set -e; for game in $(subst pretrained-,,$(SHIPPED)); do \
		variants=$$(cd pretrained && ls $${game}_*.npz | sed "s/.*_\(.*\).npz/--variant=\1/" | sort -r); \
		$(BIN)/python -m benchmarks.clips --pretrained=$$game $$variants --video=docs/results/$$game.gif; \
	done

# The tables and pictures of README and docs, from docs/results/*.json.
figures: .venv/installed
	$(BIN)/python -m benchmarks.figures

$(RESULTS): results-%: .venv/installed
	set -e; mkdir -p docs/results; for variant in compress paper; do \
		for stage in $(STAGES); do \
			$(BIN)/python $${variant}_$$stage.py --atari_game=$* --model=$(MODEL) --policy=$(PLAYER) \
				--data_path=results/data --train_dir=results/checkpoints; \
		done; \
		$(BIN)/python evaluate.py --checkpoint $(TRAINED)/$${variant}_seq_5_reward \
			--json docs/results/$*_$$variant.json; \
	done

# Frames that the components of shipped weights come from. Breakout's walls differ more than 10,000
# show.
FRAMES = $(if $(filter breakout,$(1)),20000,10000)

# The weights that are shipped: an hour a game. `make pretrained-freeway` makes one game's. What
# pretraining has trained is shipped, so the stages do nothing else.
pretrained: $(SHIPPED)

$(SHIPPED): pretrained-%: .venv/installed
	set -e; for variant in paper compress; do \
		for stage in seq_1 seq_3 seq_5; do \
			$(BIN)/python $${variant}_$${stage}_train.py --atari_game=$* --model=$(MODEL) --policy=$(PLAYER) \
				--num_training_frames=20000 --max_steps=0 \
				--data_path=results/data --train_dir=results/pretrained; \
		done; \
		$(BIN)/python -m utils.training.ship results/pretrained/$*/$(MODEL)/$${variant}_seq_5 \
			--num_frames=$(call FRAMES,$*); \
	done

# Two games that are not Atari's, shown in docs/environments.md, some ten minutes each.
ENV_lunar_lander = LunarLander-v3
ENV_doom = vizdoom.gymnasium_wrapper:VizdoomTakeCover-v1
ENV_KWARGS_lunar_lander = {}
ENV_KWARGS_doom = {"frame_skip":4}
ENV_DATA_lunar_lander = results/data/LunarLander-v3
ENV_DATA_doom = results/data/VizdoomTakeCover-v1-frame_skip_4
ENV_CLIP_lunar_lander = 30
ENV_CLIP_doom = 13
ENV_RECORD = $(BIN)/python -m systems.record --env=$(ENV_$@) --env_kwargs='$(ENV_KWARGS_$@)' --policy=persistent --data_path=results/data
ENV_FLAGS = --model=lstm_84x84x1 --train_dir=results/checkpoints \
	--training_data=$(ENV_DATA_$@)/persistent-20000-seed1-v2 \
	--validation_data=$(ENV_DATA_$@)/persistent-3000-seed2-v2 --test_data=$(ENV_DATA_$@)/persistent-3000-seed3-v2
ENV_TRAINED = results/checkpoints/$(lastword $(subst :, ,$(ENV_$@)))/lstm_84x84x1/paper_seq_5_reward

lunar_lander doom: .venv/installed
	$(BIN)/python -m pip install --quiet "gymnasium[box2d]" vizdoom
	$(ENV_RECORD) --num_frames=20000 --seed=1
	$(ENV_RECORD) --num_frames=3000 --seed=2
	$(ENV_RECORD) --num_frames=3000 --seed=3
	$(BIN)/python paper_seq_1_train.py $(ENV_FLAGS) --pretraining_steps=1125 --max_steps=20
	$(BIN)/python paper_seq_3_train.py $(ENV_FLAGS) --pretraining_steps=125 --max_steps=20
	$(BIN)/python paper_seq_5_train.py $(ENV_FLAGS) --pretraining_steps=250 --max_steps=20
	$(BIN)/python paper_seq_5_train_reward.py $(ENV_FLAGS) --max_steps=100
	$(BIN)/python evaluate.py --checkpoint $(ENV_TRAINED) --horizon 1,3,5,10,30 --json docs/results/$@_paper.json
	$(BIN)/python generate_video.py --checkpoint $(ENV_TRAINED) --horizon=$(ENV_CLIP_$@) --video docs/results/$@_paper.gif

clean:
	rm -rf .venv demo .pytest_cache .ruff_cache
