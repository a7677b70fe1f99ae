"""An agent that learns in the compressed game: its advantages, its training, its real games."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from PIL import Image

import evaluate_agent
import record_agent
import train_agent
from model.actor_critic import ActorCritic
from model.predictor import State
from systems.atari import AtariGame
from systems.controlled import find_controlled
from systems.dataset import Dataset
from systems.errors import InputError
from systems.record import record
from utils.acting import agent_files, agent_score
from utils.acting.dream import Dream, real_starts
from utils.acting.emulated import EmulatedGames
from utils.acting.ppo import PPO, advantages, normalised, possible_values, survival
from utils.acting.ppo_config import PPOConfig
from utils.checkpoint import Checkpoint

from . import tiny
from .checkpoints import write_checkpoint

ROOT = Path(__file__).parents[1]
UNITS = tiny.TINY.units


def test_advantages_of_a_game_worked_by_hand():
    steps = SimpleNamespace(
        rewards=np.array([[0.0], [1.0]]),
        values=np.array([[0.5], [0.25], [2.0]]),
        ends=np.array([[0.0], [0.75]]),
    )
    # The last step: 1 + 0.8 * 0.25 * 2 - 0.25. The one before: 0.8 * 0.25 - 0.5, and half of 0.8
    # times the last one's.
    last = 1 + 0.4 - 0.25
    expected = [[0.2 - 0.5 + 0.5 * 0.8 * last], [last]]
    np.testing.assert_allclose(advantages(steps, discount=0.8, trace=0.5), expected, atol=1e-6)


def test_no_state_is_worth_more_or_less_than_the_games_could_bring():
    steps = SimpleNamespace(
        rewards=np.array([[1.0, 0.0, -1.0], [1.0, 0.0, 0.0]]),
        ends=np.array([[0.5, 0.0, 0.0], [0.0, 0.0, 0.0]]),
    )
    # The best game earns 1 + 0.5 * 0.8, the worst -1, in two steps of 0.8: 1 / (1 - 0.64) of that.
    low, high = possible_values(steps, discount=0.8)
    assert (low, high) == (pytest.approx(-1 / 0.36), pytest.approx(1.4 / 0.36))
    assert possible_values(steps, discount=1.0) == (-np.inf, np.inf)
    # A reward in the last step is worth as much just before it as one in the first.
    late = SimpleNamespace(rewards=steps.rewards[::-1], ends=0 * steps.ends)
    assert possible_values(late, discount=0.8)[1] == pytest.approx(1.8 / 0.36)
    late.rewards = np.array([[0.0], [0.0], [1.0]])
    late.ends = 0 * late.rewards
    assert possible_values(late, discount=0.5) == (0, pytest.approx(1 / (1 - 0.5**3)))
    late.rewards = 0 * late.rewards
    assert possible_values(late, discount=0.5) == (-np.inf, np.inf)


def test_a_step_counts_as_far_as_the_game_is_not_over():
    ends = np.array([[0.0, 0.5], [0.5, 0.0], [1.0, 0.25]])
    np.testing.assert_allclose(survival(ends), [[1, 1], [1, 0.5], [0.5, 0.5]])


def test_advantages_are_normalised_over_the_steps_that_are_played():
    # The second game is over after its first step.
    gained = np.array([[1.0, 4.0], [3.0, -100.0], [8.0, -100.0]])
    played = np.array([[1.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    values = normalised(gained, played)
    assert values[played == 1].mean() == pytest.approx(0, abs=1e-6)
    assert values[played == 1].std() == pytest.approx(1, abs=1e-6)
    assert values.dtype == np.float32


class Corridor:
    """A dream of one number, the place. Action 1 goes right, 0 left; the sixth place earns 1."""

    def __init__(self):
        places = np.eye(UNITS, dtype=np.float32)[np.arange(6)]
        self.starts = State(places, places, places, np.zeros((6, 0), np.float32))

    def begin(self, games, rng):
        h = self.starts.h[rng.integers(3, size=games)]
        return State(h, h, h, np.zeros((games, 0), np.float32))

    def step(self, state, actions):
        place = np.clip(state.h.argmax(axis=1) + 2 * actions - 1, 0, 5)
        reward = (place == 5).astype(np.float32)
        h = np.eye(UNITS, dtype=np.float32)[place]
        return State(h, h, h, state.recent), reward, np.zeros(len(h), np.float32)


def test_it_learns_to_walk_to_where_the_reward_is():
    keras.utils.set_random_seed(0)
    corridor = Corridor()
    agent = ActorCritic(UNITS, 2, entropy_weight=0.01)
    agent.adapt(corridor.starts.h)
    config = PPOConfig(40 * 32 * 8, num_envs=32, horizon=8, batch_size=64, learning_rate=3e-3)
    ppo = PPO(corridor, agent, config)
    returns = [ppo.update()["imagined_return"] for _ in range(config.num_updates)]
    # From places 0 to 2 the shortest way takes 3 to 5 steps, so that 4 to 6 of 8 steps earn 1.
    assert returns[0] < 2 and returns[-1] > 4
    chosen = agent.predict_on_batch(corridor.starts.h[:5])["log_policy"].argmax(axis=1)
    assert chosen.tolist() == [1] * 5


@pytest.mark.parametrize("outputs", [np.full((1, UNITS), 7.0), np.zeros((3, UNITS))])
def test_starts_that_are_all_alike_give_finite_policies(outputs):
    agent = ActorCritic(UNITS, 3)
    agent.adapt(outputs.astype(np.float32))
    answer = agent.predict_on_batch(outputs.astype(np.float32))
    np.testing.assert_allclose(np.exp(answer["log_policy"]).sum(axis=1), 1, atol=1e-5)


def test_the_policys_loss_is_clipped():
    agent = ActorCritic(UNITS, 2)
    outputs = np.zeros((2, UNITS), np.float32)
    log_policy = np.log(np.full((2, 2), 0.5, np.float32))
    batch = {
        "outputs": outputs,
        "actions": np.array([0, 0], np.int32),
        # Twice as likely as when it was taken, and half as likely.
        "log_policy": np.log(np.array([0.25, 1.0], np.float32)),
        "advantages": np.array([1.0, -1.0], np.float32),
        "returns": np.zeros(2, np.float32),
        "weights": np.ones(2, np.float32),
    }
    predicted = {"log_policy": log_policy, "value": np.array([1.0, 0.0], np.float32)}
    loss = float(agent.compute_loss(batch, y_pred=predicted))
    # -min(2, 1.2) and -min(-0.5, -0.8), the mean of both, and half of the value's error.
    assert loss == pytest.approx((-1.2 + 0.8) / 2 + 0.5 * 0.5, abs=1e-5)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return record("freeway", "persistent", 400, 1, tmp_path_factory.mktemp("data"), 1, False)


def make_checkpoint(path, data):
    meanings = Dataset(data).action_meanings
    return write_checkpoint(path / "compress_seq_5_reward", data, action_meanings=meanings)


@pytest.fixture(scope="module")
def checkpoint_once(data, tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("once"), data)


@pytest.fixture
def checkpoint(checkpoint_once, tmp_path):
    """A copy, because agents are written beside it."""
    return Path(shutil.copytree(checkpoint_once, tmp_path / checkpoint_once.name))


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """The directory of a trained agent, which stays as it is."""
    checkpoint = make_checkpoint(tmp_path_factory.mktemp("trained"), data)
    run(train_agent, "--checkpoint", checkpoint, *FLAGS)
    return checkpoint.parent / "agent_compress_seq_5_reward"


FLAGS = ["--steps=96", "--num_envs=4", "--horizon=6", "--num_starts=10", "--seed=3"]


def run(script, *flags):
    command = [script.__file__, *map(str, flags)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", command)
        script.main()


def test_dreams_begin_at_real_moments(checkpoint, data):
    predictor = Checkpoint(checkpoint).predictor()
    starts = real_starts(predictor, Dataset(data), 70, seed=0)  # more than are encoded at once
    assert starts.state.h.shape == (70, UNITS) and len(starts.moments) == 70
    dream = Dream(predictor, starts)
    state = dream.begin(5, np.random.default_rng(0))
    assert all((row == starts.state.h).all(axis=1).any() for row in state.h)
    after, rewards, ends = dream.step(state, np.array([0, 1, 2, 0, 1]))
    assert after.h.shape == (5, UNITS) and rewards.shape == ends.shape == (5,)
    # As the predictor itself imagines them.
    outputs, _, _ = predictor.imagine(state, np.array([[0], [1], [2], [0], [1]], np.int32))
    np.testing.assert_allclose(after.h, np.asarray(outputs)[:, 0], atol=1e-5)


def test_a_dreams_starts_are_what_is_observed_up_to_there(checkpoint, data):
    dataset, predictor = Dataset(data), Checkpoint(checkpoint).predictor()
    starts = real_starts(predictor, dataset, 10_000, seed=0)
    (count,) = dataset.lengths
    # Runs of 20 moments lie end to end, up to the last action. Each begins after a warm-up.
    runs = (count + 1 - predictor.warmup) // 20
    assert len(starts.state.h) == len(starts.moments) == 20 * runs
    frames = dataset.read(0, 0, count + 1, predictor.preset.frame_shape)["frames"]
    actions = dataset.actions[0]
    for number in (0, 33, 20 * runs - 1):
        expected = {}  # what the start may be, by its frame: the runs' order is drawn
        for end in range(count, predictor.warmup, -20):
            first, last = end + 1 - 20 - predictor.warmup, end - 20 + number % 20
            if first >= 0:
                seen = frames[None, first : last + 1], actions[None, first:last]
                expected[last] = np.asarray(predictor.observe(*seen).h)[0]
        assert len(expected) == runs
        episode, now = starts.moments[number]
        assert episode == 0
        np.testing.assert_allclose(starts.state.h[number], expected[now], atol=1e-4)


def test_the_emulator_goes_on_from_the_same_starts_as_recorded(checkpoint, data):
    dataset, predictor = Dataset(data), Checkpoint(checkpoint).predictor()
    starts = real_starts(predictor, dataset, 30, seed=0)
    games = EmulatedGames(predictor, dataset, starts)
    for seed in (0, 1):  # the games begin anew, as often as they are asked to
        state = games.begin(6, np.random.default_rng(seed))
        numbers = starts.drawn(6, np.random.default_rng(seed))[1]
        moments = [starts.moments[number] for number in numbers]
        for later in range(3):
            actions = [dataset.actions[episode][now + later] for episode, now in moments]
            state, rewards, ends = games.step(state, np.array(actions))
            earned = [dataset.rewards[episode][now + later] for episode, now in moments]
            assert rewards.tolist() == np.sign(earned).tolist() and not ends.any()
        # The model has seen what was recorded.
        for row, (episode, now) in enumerate(moments):
            first, last = now + 1 - predictor.warmup, now + 3
            frames = dataset.read(episode, first, last + 1 - first, predictor.preset.frame_shape)
            seen = frames["frames"][None], dataset.actions[episode][None, first:last]
            expected = np.asarray(predictor.observe(*seen).h)[0]
            np.testing.assert_allclose(state.h[row], expected, atol=1e-4)


def test_an_emulated_game_that_is_over_earns_no_more(checkpoint, data):
    dataset, predictor = Dataset(data), Checkpoint(checkpoint).predictor()
    # The game is cut off two steps after its last recorded one.
    starts = real_starts(predictor, dataset, 10_000, seed=0)
    last = max(starts.moments)
    only = starts._replace(
        state=State(*(part[[starts.moments.index(last)]] for part in starts.state)), moments=[last]
    )
    dataset.metadata["max_episode_frames"] = dataset.no_ops[0] + 4 * (last[1] + 2)
    games = EmulatedGames(predictor, dataset, only)
    state, ends = games.begin(2, np.random.default_rng(0)), []
    for _ in range(4):
        state, rewards, ended = games.step(state, np.array([0, 1]))
        ends.append(ended.tolist())
    assert ends == [[0, 0], [1, 1], [1, 1], [1, 1]] and not rewards.any()
    dataset.metadata["repeat_action_probability"] = 0.25
    with pytest.raises(InputError, match="expected a data set that the emulator can play again"):
        EmulatedGames(predictor, dataset, only)


def test_an_agent_can_learn_in_the_emulator(checkpoint, tmp_path, capsys):
    run(train_agent, "--checkpoint", checkpoint, *FLAGS, "--simulator=emulator")
    directory = checkpoint.parent / "agent_compress_seq_5_reward_emulator"
    assert "freeway: an agent learns in the emulator" in capsys.readouterr().out
    score = tmp_path / "score.json"
    flags = ["--num_episodes=1", "--max_episode_steps=5", f"--json={score}"]
    run(evaluate_agent, f"--agent={directory}", *flags)
    assert json.loads(score.read_text())["simulator"] == "emulator"
    told = refused(capsys, train_agent, "--checkpoint", checkpoint, *FLAGS, "--agent", directory)
    assert "expected --simulator=emulator" in told and "received compressed" in told


def test_few_starts_lie_far_apart(checkpoint, data):
    dataset, predictor = Dataset(data), Checkpoint(checkpoint).predictor()
    (count,), warmup = dataset.lengths, predictor.warmup
    frames = dataset.read(0, 0, count + 1, predictor.preset.frame_shape)["frames"]
    seen = np.arange(count - warmup)[:, None] + np.arange(warmup)
    known = np.asarray(predictor.observe(frames[seen], dataset.actions[0][seen[:, :-1]]).h)
    starts = real_starts(predictor, dataset, 10, seed=0).state.h
    times = [int(np.abs(known - start).max(axis=1).argmin()) for start in starts]
    assert len(times) == 10 and np.ptp(times) > count / 2


def test_it_is_trained_and_plays_the_real_game(checkpoint, tmp_path, capsys):
    run(train_agent, "--checkpoint", checkpoint, *FLAGS)
    directory = checkpoint.parent / "agent_compress_seq_5_reward"
    told = capsys.readouterr().out
    assert f"next: python evaluate_agent.py --agent {directory}" in told
    assert not (directory / "resume").exists()
    agent = agent_files.TrainedAgent(directory)
    assert agent.config.training.seed == 3 and agent.config.imagined_return is not None
    assert any((directory / "logs").iterdir())
    # Asked for again, it is left as it is.
    run(train_agent, "--checkpoint", checkpoint, *FLAGS)
    assert "is trained; --overwrite trains it again" in capsys.readouterr().out
    score, film = tmp_path / "score.json", tmp_path / "agent.gif"
    flags = ["--num_episodes=2", "--max_episode_steps=12", f"--json={score}", f"--video={film}"]
    run(evaluate_agent, f"--agent={directory}", *flags)
    results = json.loads(score.read_text())
    assert results["steps"] == 96 and results["game"] == "freeway"
    for player in ("agent", "drawn", "random", "persistent", "constant"):
        assert len(results["players"][player]["scores"]) == 2
    assert "freeway, agent: 0.0 points on average" in capsys.readouterr().out
    # The first step only waits, so that there is something to decide from.
    assert Image.open(film).n_frames == 11


def test_what_it_plays_is_recorded(trained, tmp_path, capsys):
    flags = [f"--agent={trained}", "--num_frames=70", "--seed=5"]
    sets = []
    for place in ("one", "other"):
        run(record_agent, *flags, f"--data_path={tmp_path / place}")
        (found,) = (tmp_path / place / "freeway").glob("agent-*-70-seed5-v2")
        sets.append(Dataset(found))
    one, other = sets
    assert one.path.read_bytes() == other.path.read_bytes()
    assert one.lengths.tolist() == [70] and one.metadata["policy"] == one.path.parts[-3][:14]
    wait = one.action_meanings.index("NOOP")
    assert one.actions[0][0] == wait and len(set(one.actions[0].tolist())) > 1
    # Actions and no-ops lead to the frames that are recorded, or this would refuse.
    find_controlled(one.directory, num_workers=1, progress=False)
    run(record_agent, *flags, f"--data_path={tmp_path / 'one'}")
    assert "is there already, nothing to do" in capsys.readouterr().out


def test_a_recorded_game_ends_where_the_agents_play_ends(tmp_path):
    # It stood still, so nobody played on.
    known = [[0] * 40, [1] * 40]
    by_it = {"known_actions": known, "player": "agent-1", "progress": False}
    played = Dataset(record("breakout", "random", 60, 0, tmp_path, **by_it))
    assert played.lengths.tolist() == [40, 20]
    assert [set(actions.tolist()) for actions in played.actions] == [{0}, {1}]
    with pytest.raises(InputError, match="expected 81 known actions of agent-1, received 80"):
        record("breakout", "random", 81, 0, tmp_path, **by_it)


def test_actions_are_drawn_by_their_probabilities(trained):
    agent = agent_files.TrainedAgent(trained)
    output = np.random.default_rng(1).normal(size=(1, UNITS)).astype(np.float32)
    policy = np.exp(agent._network.predict_on_batch(output)["log_policy"])[0]
    drawn = agent.drawn_actions(np.repeat(output, 4000, axis=0), np.random.default_rng(2))
    shares = np.bincount(drawn, minlength=len(policy)) / len(drawn)
    np.testing.assert_allclose(shares, policy, atol=0.03)


def test_an_agent_that_goes_up_crosses_the_road(checkpoint):
    stage = Checkpoint(checkpoint)
    up = stage.config.action_meanings.index("UP")
    outputs = []

    def go_up(output):
        outputs.append(output)
        return np.full(len(output), up)

    predictor = stage.predictor()
    (earned,) = agent_score.agents_returns(stage.config, predictor, go_up, 1, max_steps=200)
    assert earned >= 1
    assert len(outputs) == 199 and outputs[0].shape == (1, UNITS)
    # The model has observed the game, so that its outputs change.
    assert np.ptp(np.concatenate(outputs), axis=0).max() > 0


class Ending:
    """A game that is over after so many steps."""

    terminated = False

    def __init__(self, game, steps):
        self.game, self.left, self.observation = game, steps, game.observation

    @property
    def truncated(self):
        return self.left == 0

    def step(self, action):
        self.left -= 1
        return self.game.step(action)


def test_games_that_are_over_are_no_longer_observed(checkpoint):
    stage = Checkpoint(checkpoint)
    predictor, lengths = stage.predictor(), [5, 10, 30]

    def played(numbers):
        outputs = []

        def go_up(output):
            outputs.append(output)
            return np.full(len(output), stage.config.action_meanings.index("UP"))

        begun = agent_score.begun(stage.config, numbers)
        games = [Ending(game, lengths[i]) for i, game in zip(numbers, begun, strict=True)]
        _, taken = agent_score.agents_games(games, stage.config, predictor, go_up, max_steps=100)
        assert [len(actions) for actions in taken] == [lengths[i] for i in numbers]
        return outputs

    together, alone = played([0, 1, 2]), played([2])
    assert [len(output) for output in together] == [3] * 9 + [1] * 20
    np.testing.assert_allclose(
        [output[-1] for output in together], np.concatenate(alone), atol=1e-3
    )


def test_a_game_that_nobody_serves_in_ends(checkpoint):
    game = agent_score.UntilStandstill(AtariGame("breakout"))
    fire, right, left = map(game.action_meanings.index, ("FIRE", "RIGHT", "LEFT"))
    game.step(fire)
    steps = 0
    while not game.truncated:
        # The paddle goes to the right, and trembles there until it is served.
        game.step(left if steps > 100 and steps % 2 else right)
        steps += 1
    # The ball is lost first.
    assert game.lives == 4 and not game.terminated
    assert 10 < steps - agent_score.STANDSTILL < 150
    # Whoever serves now and then plays on.
    game = agent_score.UntilStandstill(AtariGame("breakout"))
    for step in range(2 * agent_score.STANDSTILL):
        game.step(right if step % 400 else fire)
    assert not game.truncated


@pytest.mark.thorough
def test_players_play_until_their_games_are_over(checkpoint):
    config = Checkpoint(checkpoint).config
    returns = agent_score.players_returns(config, "persistent", 2, max_steps=3000)
    assert len(returns) == 2 and sum(returns) > 0
    assert returns == agent_score.players_returns(config, "persistent", 2, max_steps=3000)


def test_the_best_of_constant_actions_goes_up(checkpoint):
    config = Checkpoint(checkpoint).config
    (earned,) = agent_score.best_constant(config, 1, max_steps=200)
    assert earned >= 1  # as UP does, where NOOP and DOWN earn nothing


def test_thirty_games_begin_in_thirty_ways(checkpoint):
    config = Checkpoint(checkpoint).config
    few, all_games = (agent_score.different(config, count) for count in (10, 31))
    no_ops = [game.no_ops for game in all_games]
    assert sorted(no_ops[:30]) == list(range(1, 31)) and no_ops[30] == no_ops[0]
    # Few of them are spread over all.
    assert max(np.diff(sorted([0, 31, *(game.no_ops for game in few)]))) <= 7


def test_scores_are_summed_up():
    told = agent_score.summary([1.0, 2.0, 6.0])
    assert told["mean"] == 3 and told["scores"] == [1, 2, 6]
    assert told["spread"] == pytest.approx(np.std([1, 2, 6]))
    assert told["interval"][0] >= 1 and told["interval"][1] <= 6


def weights(directory):
    return agent_files.TrainedAgent(directory)._network.get_weights()


def test_a_training_that_is_killed_goes_on_as_if_it_had_not_been(checkpoint, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    die = """
from utils.acting import agent_files, agent_training
agent_training.UPDATES_PER_SAVE = 2
save = agent_files.save
def save_and_die(*arguments):
    save(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
agent_files.save = save_and_die
"""

    # In processes of their own, because oneDNN may round a last bit otherwise in one that has
    # computed other things before.
    def trained(directory, more=""):
        command = ["train_agent.py", "--checkpoint", str(checkpoint), *FLAGS]
        program = "import os, signal, sys\nfrom tests import tiny\nimport train_agent\n" + more
        program += f"sys.argv = {[*command, '--agent', str(directory)]}\ntrain_agent.main()"
        return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True)

    assert trained(whole).returncode == 0
    # One kills itself right after it has saved update 2.
    done = trained(killed, die)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (killed / agent_files.FILE).exists()
    with pytest.raises(InputError, match="expected the directory of a trained agent"):
        agent_files.TrainedAgent(killed)
    assert trained(killed).returncode == 0
    for ours, theirs in zip(weights(killed), weights(whole), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    # The return is the mean of as many updates.
    ours, theirs = (agent_files.TrainedAgent(each).config for each in (killed, whole))
    assert ours.imagined_return == pytest.approx(theirs.imagined_return, abs=1e-6)


@pytest.mark.thorough
def test_the_same_seed_makes_the_same_agent_and_another_does_not(checkpoint, tmp_path):
    for name, more in (("a", []), ("b", []), ("c", ["--seed=4"])):
        run(train_agent, "--checkpoint", checkpoint, *FLAGS, *more, "--agent", tmp_path / name)
    a, b, c = (weights(tmp_path / name)[0] for name in "abc")
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - c).max() > 1e-3


def refused(capsys, script, *flags):
    """What a script says when it ends with exit code 2."""
    with pytest.raises(SystemExit) as ended:
        run(script, *flags)
    assert ended.value.code == 2
    return " ".join(capsys.readouterr().err.split())


def test_what_does_not_fit_is_refused(checkpoint, data, tmp_path, capsys):
    paper = write_checkpoint(tmp_path / "paper", data, variant="paper")
    told = refused(capsys, train_agent, "--checkpoint", paper, *FLAGS)
    assert "expected a checkpoint of the compression variant" in told
    blind = write_checkpoint(tmp_path / "blind", data, reward_weight=0.0)
    told = refused(capsys, train_agent, "--checkpoint", blind, *FLAGS)
    assert "predicts rewards" in told
    agent = tmp_path / "agent"
    run(train_agent, "--checkpoint", checkpoint, *FLAGS, "--agent", agent)
    told = refused(
        capsys, train_agent, "--checkpoint", checkpoint, *FLAGS, "--horizon=5", "--agent", agent
    )
    assert "expected --horizon=6" in told and "received 5" in told
    # The same play by another path is the same.
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(data.parent)
        again = "--checkpoint", checkpoint, *FLAGS, "--dataset", data.name, "--agent", agent
        run(train_agent, *again)
    assert "is trained" in capsys.readouterr().out
    # What cannot be trained leaves the agent that is there alone.
    sticky = tmp_path / "sticky"
    shutil.copytree(data, sticky)
    about = json.loads((sticky / "metadata.json").read_text())
    about["repeat_action_probability"] = 0.25
    (sticky / "metadata.json").write_text(json.dumps(about))
    other = ["--dataset", sticky, "--simulator=emulator", "--overwrite"]
    told = refused(
        capsys, train_agent, "--checkpoint", checkpoint, *FLAGS, "--agent", agent, *other
    )
    assert "expected a data set that the emulator can play again" in told
    assert agent_files.TrainedAgent(agent).config.training.horizon == 6
    # The same place takes another agent if it is told so.
    run(
        train_agent,
        *("--checkpoint", checkpoint, *FLAGS, "--horizon=5", "--agent", agent, "--overwrite"),
    )
    told = refused(capsys, evaluate_agent, "--agent", tmp_path / "nowhere")
    assert "expected the directory of a trained agent" in told and "train_agent.py" in told
    shutil.copytree(agent, tmp_path / "damaged")
    (tmp_path / "damaged" / agent_files.WEIGHTS).write_bytes(b"no weights")
    told = refused(capsys, evaluate_agent, "--agent", tmp_path / "damaged")
    assert "expected the weights of a trained agent" in told and "interrupted" not in told
    newer = Path(shutil.copytree(agent, tmp_path / "newer")) / agent_files.FILE
    newer.write_text(newer.read_text().replace('"version": 1', '"version": 9'))
    told = refused(capsys, evaluate_agent, "--agent", newer.parent)
    assert "it has version 9" in told
    # A place that is named by no name.
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(checkpoint)
        here = agent_files.agent_directory(Checkpoint("."))
        assert here.resolve() == agent_files.agent_directory(Checkpoint(checkpoint)).resolve()
        patch.chdir(agent)
        told = refused(
            capsys, train_agent, "--checkpoint", checkpoint, *FLAGS, "--horizon=9", "--agent=."
        )
        assert "expected --horizon=5" in told
    # The checkpoint is trained again.
    write_checkpoint(checkpoint, data, seed=5)
    told = refused(capsys, evaluate_agent, "--agent", agent)
    assert "in which the agent has learned, received others" in told


def test_a_loss_that_is_not_finite_ends_the_training(checkpoint, tmp_path, capsys):
    flags = ["--checkpoint", checkpoint, *FLAGS, "--agent", tmp_path / "agent"]
    told = refused(capsys, train_agent, *flags, "--learning_rate=1e30")
    assert "expected a finite loss" in told and "--learning_rate" in told
    assert not (tmp_path / "agent" / agent_files.FILE).exists()


def test_there_is_at_least_one_update():
    assert PPOConfig(steps=100_000).num_updates == 6  # of 1,024 games, 16 steps each
    assert PPOConfig(steps=1).num_updates == 1
