"""LTCR Tables 1 and 2: average and highest scores of each method, and the gain over agents that learn alone.

    python analysis/score_table.py runs/2v2-* runs/3v3-* -o table2.md
    python analysis/score_table.py runs/phoenix-* --by agent --window 0 --unit life -o table1.md

One curve is one agent of one run. Its average score is the mean of all its recorded returns; its highest is the largest
of their trailing means over `--window` frames, from the first full window on (Table 2), or with `--window 0` the
largest single return (Table 1). A row holds the means of both over all curves of a method, with 95 % bootstrap
intervals over seeds, and the best of all curves.

The gain of a method b over `--baseline` a, in the same game, is (b - a) / a. It means nothing where a is not positive:
then there is none, and no interval where a resampled a is not. The difference b - a is always given. All runs in a game
are compared over the frames that each of them has.
`--unit life` takes the scores of single lives of the evaluation games, where the game counts lives.

Writes Markdown, and beside it the same as .tex and, with all numbers, as .csv.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import load
import numpy as np
import pandas as pd
from stats import Band, bootstrap, mean, quantiles, resampled, trailing_mean

SCORES = ("average", "highest")
HEAD = ("game", "method", "seeds", "average", "gain", "highest", "gain", "best")


class Row(NamedTuple):
    """One method in one game: `scores` (C, 2) of its C curves, average and highest."""

    game: str
    group: load.Group
    scores: np.ndarray

    @property
    def band(self) -> Band:
        """Means over curves, with intervals over seeds."""
        return bootstrap(self.scores, self.group.seeds, mean)


def main(argv: list[str] | None = None) -> int:
    """Write what the command line asks for. Returns the exit code."""
    parser = load.make_parser(__doc__.splitlines()[0], "score_table.md", table_path, "table to write, ending in .md")
    parser.add_argument("--by", choices=("name", "agent"), default="name", help="a row for each name, or each agent")
    parser.add_argument(
        "--table", choices=("eval", "episodes"), default="eval", help="evaluations, or training episodes"
    )
    parser.add_argument("--unit", choices=("game", "life"), default="game", help="what one score is of")
    parser.add_argument(
        "--window", type=load.natural, default=1000, help="frames of the highest trailing mean; 0: none"
    )
    parser.add_argument(
        "--baseline", default="alone", metavar="END", help="how the name of the method to gain over ends"
    )
    return load.execute(write, parser.parse_args(argv))


def table_path(text: str) -> Path:
    """A path that ends in .md, for argparse."""
    path = Path(text)
    if path.suffix != ".md":
        raise argparse.ArgumentTypeError(f"{text}: end it in .md; .tex and .csv are written beside")
    return path


def write(asked: argparse.Namespace) -> None:
    """The three files."""
    rows = [row for logs in games(asked) for row in rows_of(logs, asked)]
    baselines = {row.game: row for row in rows if row.group.method.endswith(asked.baseline)}
    lines = [line_of(row, baselines.get(row.game)) for row in rows]
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    asked.output.write_text(markdown(lines), encoding="utf-8")
    asked.output.with_suffix(".tex").write_text(latex(lines), encoding="utf-8")
    numbers = pd.DataFrame([numbers_of(row, baselines.get(row.game)) for row in rows])
    numbers.to_csv(asked.output.with_suffix(".csv"), index=False)
    print(asked.output.read_text(encoding="utf-8"))
    for suffix in (".md", ".tex", ".csv"):
        print(f"written: {asked.output.with_suffix(suffix)}")


# -------------------- scores


def games(asked: argparse.Namespace) -> list[list[load.Log]]:
    """The logs, those of one environment together, in the order of the command line."""
    together: dict[str, list[load.Log]] = {}
    for log in load.open_logs(asked.runs, mixed=True):
        together.setdefault(repr(log.config["env"]), []).append(log)
    if not asked.mixed:
        for logs in together.values():
            load.check_alike(logs)
    return list(together.values())


def rows_of(logs: list[load.Log], asked: argparse.Namespace) -> list[Row]:
    """The methods of one game."""
    game, tables = game_of(logs[0].config["env"]), {log.path: recorded(log, asked) for log in logs}
    ends = [int(frames[-1]) for frames, _ in tables.values()]
    if min(ends) < max(ends):
        print(f"{game}: all over the {min(ends)} frames of the shortest run; the longest has {max(ends)}")
    rows = []
    for group in load.grouped(logs, asked.by):
        scores = [scores_of(*tables[log.path], last=min(ends), asked=asked) for log in group.logs]
        rows.append(Row(game, group, np.array(scores)))
    return rows


def game_of(env: dict) -> str:
    """What a game is called in a table: "2 vs 2", an Atari game's name, or the environment's."""
    kwargs = env["kwargs"]
    if env["id"].endswith("SpaceBattle-v0"):
        size = (kwargs.get("rules") or {}).get("team_size", 2)
        return f"{size} vs {size}"
    return str(kwargs.get("game", env["id"].split("/")[-1]))


def recorded(log: load.Log, asked: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Frames and returns of one curve, (R,) each. Raises FigureError where there are none."""
    table = log.table("lives" if asked.unit == "life" else asked.table)
    frames, values = table["frames"], table["return"]
    if asked.unit == "life":
        wanted = table["evaluation"] == (asked.table == "eval")
        frames, values = frames[wanted], values[wanted]
    if not len(values):
        raise load.FigureError(f"{log.path}: no score of a {asked.unit} in {asked.table} yet")
    return frames, values


def scores_of(frames: np.ndarray, values: np.ndarray, *, last: int, asked: argparse.Namespace) -> tuple[float, float]:
    """Average and highest score up to frame `last`. Raises FigureError where that is no full window."""
    frames, values = frames[frames <= last], values[frames <= last]
    if not asked.window:
        return float(values.mean()), float(values.max())
    at = np.unique(frames[frames >= asked.window])
    if not len(at):
        raise load.FigureError(f"{asked.table}: ends at frame {last}, before a full window of {asked.window}")
    return float(values.mean()), float(trailing_mean(frames, values, at, asked.window).max())


# -------------------- gains


class Gain(NamedTuple):
    """Of the average and of the highest score, (2,) each; NaN where there is none."""

    gain: np.ndarray
    gain_low: np.ndarray
    gain_high: np.ndarray
    difference: np.ndarray
    difference_low: np.ndarray
    difference_high: np.ndarray


def gain_over(row: Row, base: Row) -> Gain:
    """(b - a) / a and b - a, their intervals from seeds of both methods drawn independently."""
    b, a = row.scores.mean(axis=0), base.scores.mean(axis=0)
    gain = np.where(a > 0, (b - a) / np.where(a > 0, a, 1), np.nan)
    nothing = np.full(2, np.nan)
    if min(len(set(r.group.seeds)) for r in (row, base)) < 2:
        return Gain(gain, nothing, nothing, b - a, nothing, nothing)
    many_b, many_a = (resampled(r.scores, r.group.seeds, mean, stream=i) for i, r in enumerate((row, base)))
    sound = (many_a > 0).all(axis=0)
    ratio = np.where(sound, (many_b - many_a) / np.where(many_a > 0, many_a, 1), np.nan)
    return Gain(gain, *quantiles(ratio), b - a, *quantiles(many_b - many_a))


# -------------------- writing


def line_of(row: Row, base: Row | None) -> list[str]:
    """The cells of a row of the table, in the order of HEAD."""
    band = row.band
    average, highest = (in_words(band.value[i], band.low[i], band.high[i]) for i in (0, 1))
    gains = ["", ""]
    if base is not None and base is not row:
        gain = gain_over(row, base)
        gains = [_gain_in_words(gain, i) for i in (0, 1)]
    best = f"{row.scores[:, 1].max():.4g}"
    return [row.game, row.group.label, str(band.seeds), average, gains[0], highest, gains[1], best]


def _gain_in_words(gain: Gain, i: int) -> str:
    return in_words(gain.gain[i], gain.gain_low[i], gain.gain_high[i], percent=True) or "none: baseline ≤ 0"


def in_words(value: float, low: float, high: float, *, percent: bool = False) -> str:
    """A number with its interval, e.g. "40.3 [31.2, 48.8]"; empty for none."""
    if not np.isfinite(value):
        return ""

    def word(number: float) -> str:
        return f"{100 * number:.0f} %" if percent else f"{number:.1f}"

    return word(value) + (f" [{word(low)}, {word(high)}]" if np.isfinite(low) else "")


def markdown(lines: list[list[str]]) -> str:
    """A table of Markdown."""
    table = [list(HEAD), ["---"] * len(HEAD), *lines]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in table)


def latex(lines: list[list[str]]) -> str:
    """A tabular of LaTeX, for the package booktabs."""
    escaped = [[_for_latex(cell) for cell in cells] for cells in [list(HEAD), *lines]]
    head, *body = (" & ".join(cells) + r" \\" for cells in escaped)
    begin = rf"\begin{{tabular}}{{ll{'r' * (len(HEAD) - 2)}}}"
    return "\n".join([begin, r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _for_latex(text: str) -> str:
    for plain, written in (("\\", r"\textbackslash "), ("%", r"\%"), ("_", r"\_"), ("&", r"\&"), ("#", r"\#")):
        text = text.replace(plain, written)
    return text.replace("≤", r"$\leq$")


def numbers_of(row: Row, base: Row | None) -> dict[str, object]:
    """All of it as a row of the CSV."""
    band = row.band
    agent = "" if row.group.agent is None else row.group.agent
    found: dict[str, object] = {"game": row.game, "method": row.group.method, "agent": agent}
    found |= {"seeds": band.seeds, "curves": band.curves}
    for i, name in enumerate(SCORES):
        found |= {name: band.value[i], f"{name}_low": band.low[i], f"{name}_high": band.high[i]}
    found["best"] = row.scores[:, 1].max()
    gain = gain_over(row, base) if base is not None and base is not row else Gain(*np.full((6, 2), np.nan))
    for i, name in enumerate(SCORES):
        for field, values in gain._asdict().items():
            found[f"{name}_{field}"] = values[i]
    return found


if __name__ == "__main__":
    sys.exit(main())
