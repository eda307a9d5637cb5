"""CDRL Fig. 5: how often a teacher, a student and the aligned teacher take each action.

    python analysis/action_distributions.py runs/cdrl-collaborative -o fig5.png
    python analysis/action_distributions.py runs/cdrl-offline-align --states 20000

The networks of the run's newest checkpoints play, and each bar is the average of softmax(logits) over the states that
were met. (a) the teacher on states of its own task; (b) the student on states of its own; (c) the teacher on those same
states of the student, its logits mapped by the alignment network F, with the student's as outlines. Each teacher has a
row. How far both are away from each other is their total variation, 0 to 1.

Of cA3C (online: F comes from the student's server; offline: from the run that is named there) or of an offline
alignment (the "student" is then the expert of the student's task). Without an alignment network (c) is the teacher as
it is. A run that is still going on is drawn as of its newest checkpoints.

The CSV has a row for each bar: method, teacher, student, panel (teacher, student, aligned; and raw: the teacher on the
student's states before F), action, name, probability, states.
"""

from __future__ import annotations

import argparse
import sys

import load
import numpy as np
import pandas as pd
import style
from matplotlib.axes import Axes
from stats import total_variation

from mpi_ltcr.config import ConfigError
from mpi_ltcr.programs.actions import Lecture, lectures

HATCHES = {"teacher": "", "student": "///", "aligned": "..."}
"""The three are told apart without colours too."""


def main(argv: list[str] | None = None) -> int:
    """Draw what the command line asks for. Returns the exit code."""
    parser = argparse.ArgumentParser(
        description="CDRL Fig. 5: distributions over actions of teacher, student and aligned teacher.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("runs", nargs="+", type=load.Path, metavar="RUN", help="of ca3c with teachers, or of align")
    load.add_output(parser, "action_distributions.png")
    parser.add_argument("--task", help="the student's task, where several have teachers")
    parser.add_argument("--states", type=load.positive, default=10_000, help="states that are averaged over")
    parser.add_argument("--seed", type=int, default=0, help="of the play")
    return load.execute(draw, parser.parse_args(argv))


@style.applied()
def draw(asked: argparse.Namespace) -> None:
    """The figure and its CSV."""
    try:
        told = [lecture for run in asked.runs for lecture in lectures(run, asked.task, asked.states, asked.seed)]
    except ConfigError as error:
        raise load.FigureError(str(error)) from None
    figure, axes = style.new_figure(len(told), 3, 10.8, 0.5 + 2.6 * len(told), sharey=True)
    for lecture, row in zip(told, axes, strict=True):
        draw_row(lecture, *row)
    style.save(figure, pd.concat([rows(lecture) for lecture in told]), asked.output)


def average(logits: np.ndarray) -> np.ndarray:
    """Mean of softmax over states. (N, A) -> (A,)."""
    masses = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    mean: np.ndarray = (masses / masses.sum(axis=1, keepdims=True)).mean(axis=0)
    return mean


def draw_row(lecture: Lecture, own: Axes, said: Axes, aligned: Axes) -> None:
    """One teacher and its student."""
    student, met = average(lecture.said), average(lecture.aligned)
    own.set_ylabel(f"{style.plain(lecture.method)}\nprobability, mean over {len(lecture.said)} states")
    _bars(own, average(lecture.own), lecture.teacher_actions, "teacher", 0)
    own.set_title(style.plain(f"(a) teacher: {lecture.teacher}, on {lecture.teacher}"))
    _bars(said, student, lecture.student_actions, "student", 1)
    said.set_title(style.plain(f"(b) student: {lecture.student}, on {lecture.student}"))
    _bars(aligned, met, lecture.student_actions, "aligned", 2)
    aligned.bar(range(len(student)), student, width=0.8, fill=False, edgecolor="black", linestyle="--", linewidth=1.0)
    far = total_variation(met, student)
    how = "aligned" if lecture.mapped else "not aligned"
    aligned.set_title(style.plain(f"(c) {lecture.teacher}, {how}, on {lecture.student}"))
    aligned.set_xlabel(f"action; dashed: (b), {far:.2f} away")
    print(f"{lecture.method}: {lecture.teacher}, {how}, is {far:.3f} from {lecture.student} in total variation")


def _bars(ax: Axes, probabilities: np.ndarray, names: list[str], kind: str, colour: int) -> None:
    ax.bar(
        range(len(names)),
        probabilities,
        width=0.8,
        color=style.OKABE_ITO[colour],
        alpha=0.75,
        hatch=HATCHES[kind],
        edgecolor="white",
        linewidth=0,
    )
    ax.set_xticks(range(len(names)), names, rotation=0 if max(map(len, names)) < 4 else 30)
    ax.set_xlabel("action")
    ax.grid(axis="x", visible=False)
    ax.set_ylim(0, None)


def rows(lecture: Lecture) -> pd.DataFrame:
    """The bars of one teacher, and the one that is not drawn."""
    panels = {
        "teacher": (lecture.own, lecture.teacher_actions),
        "student": (lecture.said, lecture.student_actions),
        "raw": (lecture.raw, lecture.teacher_actions),
        "aligned": (lecture.aligned, lecture.student_actions),
    }
    parts = []
    for panel, (logits, names) in panels.items():
        means = average(logits)
        who = {"method": lecture.method, "teacher": lecture.teacher, "student": lecture.student, "panel": panel}
        columns = {"action": range(len(means)), "name": names, "probability": means, "states": len(logits)}
        parts.append(pd.DataFrame({**who, **columns}))
    return pd.concat(parts)


if __name__ == "__main__":
    sys.exit(main())
