"""The environment loop: a tape of who is called when, faults of environments by name, states that replay exactly."""

from __future__ import annotations

import sys
from itertools import islice

import gymnasium
import numpy as np
import pytest

from mpi_ltcr import envs
from mpi_ltcr.interaction import EnvLoop, Episode, evaluate, explore, random_features
from mpi_ltcr.interfaces import Life, Transition

BROKEN_STEP = pytest.mark.fault(
    "E38", "a step of the environment that is not what its space promises: episode and step are named"
)
GAMMA = 0.9


class Tape:
    """What was called, in order."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []


class Corridor(gymnasium.Env):
    """Observation = frames of the episode so far. Ends at `length`, or is cut off there if `truncates`."""

    observation_space = gymnasium.spaces.Box(0, 100, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, tape: Tape, length: int = 3, truncates: bool = False) -> None:
        self.tape, self.length, self.truncates = tape, length, truncates

    def reset(self, *, seed=None, options=None):
        self.at = 0
        self.tape.calls.append(("reset", seed))
        return self.look(), {}

    def step(self, action):
        self.at += 1
        self.tape.calls.append(("step", action))
        over = self.at == self.length
        return self.look(), float(self.at), over and not self.truncates, over and self.truncates, {}

    def look(self) -> np.ndarray:
        return np.array([self.at], np.float32)


class Sluggish(gymnasium.Env):
    """Draws from its own generator at every step, as an emulator with sticky actions does."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gymnasium.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.frames = self.np_random.normal(size=2), 0
        return self.place.copy(), {}

    def step(self, action):
        self.frames += 1
        self.place = self.place + action * self.np_random.normal(size=2)
        return self.place.copy(), float(self.place[0]), False, self.frames == 9, {}


class Scribe:
    """An agent that plays 0, 1, 0, 1, ... and writes down what it is asked and told."""

    def __init__(self, tape: Tape) -> None:
        self.tape, self.turn = tape, 0

    def act(self, obs):
        self.tape.calls.append(("act", obs.tolist()))
        self.turn += 1
        return (self.turn - 1) % 2

    def observe(self, transition):
        self.tape.calls.append(("observe", transition))


class Gambler:
    """An agent with randomness of its own."""

    def __init__(self, actions: int) -> None:
        self.rng, self.actions = np.random.default_rng(8), actions

    def act(self, obs):
        return int(self.rng.integers(self.actions))

    def observe(self, transition):
        pass


def loop_of(env: gymnasium.Env, **settings: float) -> EnvLoop:
    return EnvLoop(env=env, seed_of=lambda episode: 1000 + episode, discount=GAMMA, **settings)


def play(loop: EnvLoop, frames: int, agent=None) -> list[Transition]:
    agent = agent or Scribe(Tape())
    return [step.transition for step in islice(loop.steps(agent), frames)]


def equal(one: list[Transition], two: list[Transition]) -> bool:
    pairs = zip(one, two, strict=True)
    return all(np.array_equal(a, b) for x, y in pairs for a, b in zip(x, y, strict=True))


# The tape


def test_an_episode_is_reset_act_step_observe_and_the_next_one_begins_with_its_own_seed():
    tape = Tape()
    list(islice(loop_of(Corridor(tape, length=2)).steps(Scribe(tape)), 3))
    names = [call[:1] if call[0] == "observe" else call for call in tape.calls]
    assert names == [
        ("reset", 1000),
        *[("act", [0.0]), ("step", 0), ("observe",)],
        *[("act", [1.0]), ("step", 1), ("reset", 1001), ("observe",)],
        *[("act", [0.0]), ("step", 0), ("observe",)],
    ]


def test_what_is_observed_is_what_was_seen_done_and_received():
    tape = Tape()
    play(loop_of(Corridor(tape, length=2), reward_scale=10), 2, Scribe(tape))
    first, last = [call[1] for call in tape.calls if call[0] == "observe"]
    assert (first.obs, first.action, first.reward, first.discount, first.next_obs) == ([0], 0, 10.0, GAMMA, [1])
    assert (last.obs, last.action, last.reward, last.discount, last.next_obs) == ([1], 1, 20.0, 0.0, [2])


def test_a_truncation_bootstraps_and_a_termination_does_not():
    cut = play(loop_of(Corridor(Tape(), truncates=True)), 3)
    over = play(loop_of(Corridor(Tape(), truncates=False)), 3)
    assert [t.discount for t in cut] == [GAMMA, GAMMA, GAMMA]
    assert [t.discount for t in over] == [GAMMA, GAMMA, 0.0]
    assert cut[-1].next_obs == [3]  # and not the first observation of the next episode


class Arcade(Corridor):
    """A game of `lives`, each of two frames; the rewards are 1, 2, 3, ... of the whole game."""

    def __init__(self, lives: int = 3, reports: bool = True, **kwargs: object) -> None:
        super().__init__(Tape(), length=2 * lives, **kwargs)
        self.lives, self.reports = lives, reports

    def reset(self, **kwargs):
        obs, _ = super().reset(**kwargs)
        return obs, {"lives": self.lives}

    def step(self, action):
        *step, _ = super().step(action)
        lost = self.at % 2 == 0
        return *step, {"lives": self.lives - self.at // 2, "life_lost": lost and self.reports}


def test_a_reported_lost_life_is_a_discount_of_zero_and_the_game_goes_on():
    loop = loop_of(Arcade())
    assert [t.discount for t in play(loop, 8)] == [GAMMA, 0, GAMMA, 0, GAMMA, 0, GAMMA, 0]
    assert [call for call in loop.env.tape.calls if call[0] == "reset"] == [("reset", 1000), ("reset", 1001)]
    assert [t.discount for t in play(loop_of(Arcade(reports=False)), 6)] == [GAMMA] * 5 + [0]


def test_a_game_is_accounted_as_a_whole_and_life_by_life_also_where_a_truncation_cuts_the_last_one():
    lives = (Life(3.0, 2), Life(7.0, 2), Life(11.0, 2))
    (ended,) = explore(loop_of(Arcade()), Scribe(Tape()), 6)[1]
    assert ended == Episode(21.0, 6, False, lives=lives)
    game = Arcade(truncates=True)
    game.length = 3
    cut = Episode(6.0, 3, True, lives=(Life(3.0, 2), Life(3.0, 1)))
    assert [step.ended for step in islice(loop_of(game).steps(Scribe(Tape())), 3)][-1] == cut
    assert evaluate(game, lambda obs: 0, seed=7) == cut
    assert evaluate(Arcade(reports=False), lambda obs: 0, seed=7).lives == lives  # whoever learns, scores are scores


def test_a_life_that_is_won_on_the_way_is_counted_as_one_more():
    class Bonus(Arcade):
        def step(self, action):
            *step, info = super().step(action)
            return *step, {**info, "lives": [3, 3, 2, 4, 3, 3, 0][self.at]}

    (ended,) = explore(loop_of(Bonus()), Scribe(Tape()), 6)[1]
    assert ended.lives == (Life(3.0, 2), Life(7.0, 2), Life(11.0, 2))


def test_the_learner_sees_a_clipped_reward_and_the_log_the_raw_one():
    loop = loop_of(Corridor(Tape()), reward_scale=-0.4, reward_clip=1.0)
    steps = list(islice(loop.steps(Scribe(Tape())), 3))
    assert [s.transition.reward for s in steps] == [-0.4, -0.8, -1.0]
    assert steps[-1].ended == Episode(6.0, 3, False)


def test_an_end_that_is_termination_and_truncation_at_once_is_a_termination():
    class Both(Corridor):
        def step(self, action):
            obs, reward, *_ = super().step(action)
            return obs, reward, True, True, {}

    loop = loop_of(Both(Tape()))
    step = next(loop.steps(Scribe(Tape())))
    assert step.transition.discount == 0.0
    assert step.ended == Episode(1.0, 1, False)


def test_episodes_are_accounted_in_the_environments_own_reward():
    steps = list(islice(loop_of(Corridor(Tape(), truncates=True), reward_scale=7).steps(Scribe(Tape())), 7))
    assert [s.ended for s in steps] == [None, None, Episode(6.0, 3, True)] * 2 + [None]


def test_explore_hands_out_every_feature_vector_it_met_and_stops_at_its_frames():
    tape = Tape()
    loop = loop_of(Corridor(tape, length=2))
    fresh, episodes = explore(loop, Scribe(tape), 5)
    assert fresh.obs.tolist() == [[0], [1], [0], [1], [0]]
    assert (fresh.obs.dtype, fresh.action.dtype) == (np.float32, np.int64)
    assert fresh.action.tolist() == [0, 1, 0, 1, 0]
    assert episodes == [Episode(3.0, 2, False)] * 2
    assert loop.frames == sum(call[0] == "observe" for call in tape.calls) == 5


def test_an_environment_that_writes_into_one_array_for_ever_does_not_change_what_was_remembered():
    class Miser(Corridor):
        seen = np.zeros(1, np.float32)

        def look(self):
            self.seen[0] = self.at
            return self.seen

    loop = loop_of(Miser(Tape()))
    assert [(float(t.obs[0]), float(t.next_obs[0])) for t in play(loop, 3)] == [(0, 1), (1, 2), (2, 3)]
    assert explore(loop, Scribe(Tape()), 3)[0].obs.tolist() == [[0], [1], [2]]
    probe = random_features(Miser(Tape(), length=9), np.random.default_rng(0), 3)
    assert probe.obs.tolist() == [[0], [1], [2]]


# Evaluation


def test_evaluation_plays_one_whole_episode_from_its_own_seed():
    tape = Tape()
    assert evaluate(Corridor(tape, length=4), lambda obs: 1, seed=77) == Episode(10.0, 4, False)
    assert tape.calls == [("reset", 77), *[("step", 1)] * 4]
    assert evaluate(Corridor(tape, truncates=True), lambda obs: 1, seed=77).truncated


def test_evaluation_does_not_touch_the_training_environment():
    tape = Tape()
    loop, agent = loop_of(Corridor(tape)), Scribe(tape)
    play(loop, 2, agent)
    before, calls = loop.state(), len(tape.calls)
    evaluate(Corridor(Tape()), lambda obs: 0, seed=1)
    assert len(tape.calls) == calls
    assert str(loop.state()) == str(before)


# Exact states


def cartpole() -> gymnasium.Env:
    return envs.make("mpi_ltcr/CartPole15-v0", {})


@pytest.mark.parametrize("make", [cartpole, Sluggish])
@pytest.mark.parametrize("frames", [0, 1, 5, 9, 40, 77])
def test_a_loop_restored_in_mid_episode_goes_on_exactly_like_the_first(make, frames):
    first = loop_of(make(), reward_scale=2.0)
    agent = Gambler(2)
    play(first, frames, agent)
    second = loop_of(make(), reward_scale=2.0)
    play(second, 13, Gambler(2))  # it has a past of its own
    state = first.state()
    second.load_state(state)
    generators = [loop.env.unwrapped.np_random.bit_generator.state for loop in (first, second)]
    assert generators[0] == generators[1]
    assert (first.frames, first.score.value, first.episode) == (second.frames, second.score.value, second.episode)
    twin = Gambler(2)
    twin.rng.bit_generator.state = agent.rng.bit_generator.state
    assert equal(play(first, 60, agent), play(second, 60, twin))
    assert str(first.state()) == str(second.state())


def test_a_state_does_not_change_when_the_loop_goes_on():
    loop = loop_of(Corridor(Tape(), length=9))
    play(loop, 4)
    state = loop.state()
    play(loop, 2)
    assert (state["frames"], state["episode"], state["actions"].tolist()) == (4, 0, [0, 1, 0, 1])


def test_restoring_tells_the_agent_nothing():
    tape = Tape()
    loop = loop_of(Corridor(tape))
    play(loop, 2, Scribe(tape))
    observed = [call for call in tape.calls if call[0] in ("observe", "act")]
    loop.load_state(loop.state())
    assert [call for call in tape.calls if call[0] in ("observe", "act")] == observed


# Faults of environments


def faulty(at: int, **broken: object) -> Corridor:
    """A corridor of 3 frames an episode that breaks at its `at`-th step of all."""

    class Faulty(Corridor):
        steps = 0

        def step(self, action):
            self.steps += 1
            obs, reward, terminated, truncated, info = super().step(action)
            if self.steps == at:
                obs, reward = broken.get("obs", obs), broken.get("reward", reward)
            return obs, reward, terminated, truncated, info

    return Faulty(Tape())


FAULTS = {
    "nan reward": ({"reward": float("nan")}, "reward is nan"),
    "infinite reward": ({"reward": float("inf")}, "reward is inf"),
    "wrong shape": ({"obs": np.zeros(2, np.float32)}, r"observation is \(2,\) float32; its space says \(1,\) float32"),
    "wrong dtype": ({"obs": np.zeros(1)}, r"observation is \(1,\) float64; its space says \(1,\) float32"),
    "a list": ({"obs": [0.0]}, "observation is list"),
    "outside its space": ({"obs": np.array([999.0], np.float32)}, "observation is outside its space"),
    "nan observation": ({"obs": np.array([np.nan], np.float32)}, "observation is not finite"),
}


@BROKEN_STEP
@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_step_is_refused_with_its_episode_and_step(fault):
    broken, words = FAULTS[fault]
    tape = Tape()
    with pytest.raises(ValueError, match=rf"^env\.id: episode 1, step 2: {words}"):
        play(loop_of(faulty(5, **broken)), 9, Scribe(tape))
    assert sum(call[0] == "observe" for call in tape.calls) == 4  # the agent never saw the fifth


@BROKEN_STEP
@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_step_is_refused_in_evaluation_too(fault):
    broken, words = FAULTS[fault]
    with pytest.raises(ValueError, match=rf"^env\.id: evaluation with seed 7, step 2: {words}"):
        evaluate(faulty(2, **broken), lambda obs: 0, seed=7)


@BROKEN_STEP
def test_a_faulty_first_observation_is_refused_as_step_0():
    class Faulty(Corridor):
        def look(self):
            return np.zeros(3, np.float32) if self.at == 0 else super().look()

    with pytest.raises(ValueError, match=r"^env\.id: episode 0, step 0: observation is \(3,\)"):
        loop_of(Faulty(Tape()))


def test_an_error_of_the_environment_itself_is_passed_on_as_it_is():
    class Broken(Corridor):
        def step(self, action):
            if self.at == 2:
                raise RuntimeError("the joystick is unplugged")
            return super().step(action)

    tape = Tape()
    with pytest.raises(RuntimeError, match=r"^the joystick is unplugged") as told:
        play(loop_of(Broken(Tape())), 9, Scribe(tape))
    if sys.version_info >= (3, 11):
        place = "env.id: episode 0, step 3: the environment raised RuntimeError: the joystick is unplugged"
        assert told.value.__notes__ == [place]
    assert sum(call[0] == "observe" for call in tape.calls) == 2
