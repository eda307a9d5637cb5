"""`mpi-ltcr eval`: whole teams that play again, against whom they are asked to meet, and films of it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from battle_helpers import load, member_of, save_run
from PIL import Image

from mpi_ltcr import assembly_c51, cli, options
from mpi_ltcr.envs.lockstep import TeamGames, play_episode
from mpi_ltcr.envs.opponents import Frozen, Random
from mpi_ltcr.envs.space_battle_match import match
from mpi_ltcr.envs.space_battle_render import draw
from mpi_ltcr.envs.space_battle_rules import Rules
from mpi_ltcr.programs.evaluation import Asked, evaluate_run
from mpi_ltcr.programs.film import Film
from mpi_ltcr.seeds import TEAM, SeedTree


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two agents that have not learned anything."""
    return unlearned(tmp_path_factory.mktemp("eval") / "pair", "{team_size: 2}")


def unlearned(run: Path, rules: str) -> Path:
    config = load("--env.kwargs.rules", rules, "--env.copies", "1")
    spec = member_of(load()).spec._replace(obs_shape=(18,))
    agents = [
        assembly_c51.build_c51(config.agent, spec, SeedTree(2), i, torch.device("cpu"), 0.0, config.transfer)
        for i in (0, 1)
    ]
    return save_run(run, config, *agents)


def lines(run: Path, **asked: object) -> list[str]:
    return list(evaluate_run(Asked(run, **asked)))  # type: ignore[arg-type]


def by_sight(number: int):
    return lambda seen: int(np.floor(1000 * seen.astype(np.float64).sum()) + number) % 4


# The game


def test_a_match_is_the_evaluation_game_that_teammates_play_in_lockstep() -> None:
    rules = Rules(team_size=2)
    mate = by_sight(1)

    def with_mate(mine: np.ndarray) -> np.ndarray:
        """What the second rank would send: its action, or at the end the digest of an equal world."""
        return np.stack([mine, mine if mine[0] > 3 else np.array([mate(games.seen[0, 1])])])

    games = TeamGames(
        rules=rules,
        ship=0,
        opponents=[Random()],
        rng_of=lambda game, episode: np.random.default_rng(7),
        exchange=with_mate,
    )
    crew = Frozen(policies=[by_sight(0), mate])
    first, second = match(rules, np.random.default_rng(7), home=crew, away=Random())
    assert play_episode(games, by_sight(0)) == first
    assert second.value == first.value
    assert second.battle != first.battle


# The command


def test_a_team_plays_whole_and_twice_the_same_and_tells_its_record(pair: Path) -> None:
    told = lines(pair, episodes=3, seed=4)
    assert told == lines(pair, episodes=3, seed=4)
    assert told != lines(pair, episodes=3, seed=5)
    returns = [float(line.split("return ")[1].split(",")[0]) for line in told[:3]]
    assert told[3] == (
        f"team of 2 at step_000000010: mean return {np.mean(returns):.2f}, sd {np.std(returns, ddof=1):.2f}, 3 episodes"
    )
    won, drawn, lost = (sum(np.sign(r) == sign for r in returns) for sign in (1, 0, -1))
    assert told[4].startswith(f"won {won}, drawn {drawn}, lost {lost}; a ship's game: ")
    for line, value in zip(told[:3], returns, strict=True):
        assert {1: "won", 0: "drawn", -1: "lost"}[int(np.sign(value))] in line


def test_the_enemies_can_be_others_than_those_of_the_training(pair: Path) -> None:
    random, scripted, still = (lines(pair, episodes=2, enemies=name)[-2] for name in (None, "scripted", "stationary"))
    mean = [float(line.split("mean return ")[1].split(",")[0]) for line in (random, scripted, still)]
    assert mean[1] < -300 < mean[0], "aimed fire is far worse to meet than random fire"
    assert mean[1] < mean[2]
    assert lines(pair, episodes=1, enemies=f"frozen:{pair}")[0].startswith("game 0: return ")


def test_a_team_that_was_trained_against_itself_meets_its_past_selves(tmp_path: Path) -> None:
    config = load("--env.kwargs.enemies", "selfplay:10")
    member = member_of(config)
    for frame in (10, 20):
        member.loop.snapshots.look(frame)
    run = save_run(tmp_path / "self", config, member.agent, loop=member.loop.state())
    assert lines(run, episodes=2)[0].startswith("game 0: return ")


@pytest.mark.parametrize(
    ("options_", "says"),
    [
        (["--agent", "0"], "--agent: the team of {run} shares its games and plays whole; leave it out"),
        (["--enemies", "rnadom"], "--enemies: unknown opponent 'rnadom'; there are random"),
        (["--enemies", "frozen:missing"], "--enemies: env.kwargs.enemies: missing is not a run directory"),
        (["--enemies", "selfplay"], "--enemies: selfplay needs past selves"),
        (["--video", "film.avi"], "--video: film.avi is neither .gif or .mp4"),
        (["--video", "nowhere/film.gif"], "--video: nowhere is no directory"),
    ],
    ids=" ".join,
)
def test_what_a_team_cannot_do_is_refused_in_one_line(
    options_: list[str], says: str, pair: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(pair.parent)
    with pytest.raises(SystemExit) as end:
        cli.main(["eval", str(pair), *options_])
    out, err = capsys.readouterr()
    assert (end.value.code, out) == (2, "")
    assert says.format(run=pair) in err
    assert err.count("\n") == 1


# Films


@pytest.mark.parametrize("ending", [".gif", ".mp4"])
def test_a_film_shows_the_game_step_by_step(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"game{ending}"
    brief = unlearned(tmp_path / "brief", "{team_size: 2, fuel: 60}")
    told = lines(brief, episodes=1, video=path)
    length = int(told[0].split(" frames")[0].split()[-1])
    assert told[-1] == f"film: {path}, {length + 1} frames"
    film = imageio.get_reader(path)
    frames = [np.asarray(frame)[..., :3].astype(int) for frame in film]
    assert len(frames) == length + 1
    seen = []
    seeds = SeedTree(0)
    match(
        Rules(team_size=2, fuel=60),
        seeds.generator(TEAM, "eval_env", 0),
        home=Frozen(policies=lambda obs: 0),
        away=Random(),
        look=lambda world: seen.append(draw(world)),
    )
    assert frames[0].shape == seen[0].shape
    assert abs(frames[0] - seen[0]).mean() < 3, "the same beginning, whatever is played"
    assert abs(frames[-1] - frames[0]).mean() > 1
    seconds = film.get_meta_data()["duration"]
    assert seconds == pytest.approx(100 if ending == ".gif" else (length + 1) / 10, rel=0.01)


def test_any_environment_that_draws_itself_can_be_filmed_and_a_missing_package_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, _ = options.load(["ltcr-cartpole-alone", "--agent.hidden", "[8]"])
    run = save_run(tmp_path / "cartpole", config, member_of(config).agent)
    argv = ["eval", str(run), "--video", str(tmp_path / "cart.gif")]
    try:
        importlib.import_module("pygame")
    except ImportError:
        with pytest.raises(SystemExit) as end:
            cli.main(argv)
        assert end.value.code == 2
        assert "--video: mpi_ltcr/CartPole15-v0 cannot be drawn: pygame is not installed" in capsys.readouterr().err
        assert not (tmp_path / "cart.gif").exists()
    else:
        cli.main(argv)
        assert Image.open(tmp_path / "cart.gif").n_frames > 5


def test_a_format_without_its_package_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ValueError, match=r"--video: .mp4 needs imageio_ffmpeg.*pip install mpi-ltcr\[video\]"):
        Film(tmp_path / "x.mp4", 10)
