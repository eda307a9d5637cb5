"""What is written down is true: commands run, links lead somewhere, scripts parse, functions say what they do."""

from __future__ import annotations

import ast
import itertools
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from mpi_ltcr import cli
from mpi_ltcr.verbs.launch import make_parser

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
FOLDERS = ("mpi_ltcr", "analysis", "jobs", "tests", ".ci")
MODULES = sorted((ROOT / "mpi_ltcr").rglob("*.py"))
MAX_LINES = 350


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


def text_files() -> list[Path]:
    kinds = {".py", ".sh", ".sbatch", ".yaml", ".md", ".toml", ".txt", ""}
    inside = [p for folder in FOLDERS for p in (ROOT / folder).rglob("*") if "cache" not in str(p)]
    return sorted(p for p in [*ROOT.glob("*"), *inside] if p.is_file() and p.suffix in kinds)


def scripts() -> list[Path]:
    found = [p for p in text_files() if p.suffix in (".sh", ".sbatch") or p == ROOT / ".ci" / "run"]
    assert found
    return found


# Commands


class Command(NamedTuple):
    """A command line of ours: where it stands, on how many ranks it is given, its verb and the rest."""

    place: str
    ranks: int
    argv: list[str]


SHELL = {"|", "||", "&", "&&", ";", ">/dev/null", "2>/dev/null"}
"""Where a shell's words stop being the command's."""


def tasks_of(batch: Path) -> int:
    """How many ranks a batch file asks for, unless `sbatch -n` says otherwise."""
    return int(re.search(r"^#SBATCH --ntasks=(\d+)$", batch.read_text(encoding="utf-8"), re.MULTILINE)[1])


def fenced_lines(text: str) -> Iterator[tuple[int, str]]:
    inside = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            inside = not inside
        elif inside:
            yield number, line.strip()


def joined(lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Lines that end with a backslash are one with the next."""
    begun, number = "", 0
    for n, line in lines:
        number = number if begun else n
        begun += line.removesuffix("\\")
        if not line.endswith("\\"):
            yield number, begun
            begun = ""


def words_of(line: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError:  # a quote that ends on another line: no command of ours
        return []


def command_of(place: str, words: list[str]) -> Command | None:
    """What a line of a shell asks of us, if anything; of `mpi-ltcr launch`, what it launches."""
    command = shell_command_of(place, words)
    if command is None or command.argv[0] != "launch":
        return command
    at = command.argv.index("--")
    return Command(place, make_parser().parse_args(command.argv[1:at]).n, command.argv[at + 1 :])


def shell_command_of(place: str, words: list[str]) -> Command | None:
    """What a line of a shell asks of us. Variables have been filled in."""
    ranks = 1
    words = list(itertools.takewhile(lambda word: word not in SHELL and word[0] not in "<>", filter(None, words)))
    names = [Path(word).name for word in words]
    batch = next((at for at, name in enumerate(names) if name.endswith(".sbatch")), None)
    if batch is not None and batch + 1 < len(words) and (names[0] == "sbatch" or names[:2] == ["bash", "submit.sh"]):
        before = words[:batch]
        ranks = int(before[before.index("-n") + 1]) if "-n" in before else tasks_of(ROOT / words[batch])
        return Command(place, ranks, ["train", *words[batch + 1 :]])
    if words[:2] == ["bash", "jobs/workstation.sh"] and len(words) > 2:
        rest = words[2:]
        at = rest.index("-n") if "-n" in rest else None
        ranks = int(rest[at + 1]) if at is not None else 2
        return Command(place, ranks, ["train", *(rest if at is None else rest[:at] + rest[at + 2 :])])
    if "mpi-ltcr" not in names or names[0] not in ("mpi-ltcr", "mpirun", "srun", "exec", "launch"):
        return None
    at = names.index("mpi-ltcr")
    before = words[:at]
    if names[0] == "launch":  # of jobs/attempt.sh: one process per task
        ranks = 2
    if "-n" in before and before[before.index("-n") + 1].isdigit():
        ranks = int(before[before.index("-n") + 1])
    return Command(place, ranks, words[at + 1 :])


def readme_commands() -> list[Command]:
    lines = joined(fenced_lines(README.read_text(encoding="utf-8")))
    found = (command_of(f"README.md:{n}", words_of(line)) for n, line in lines)
    return [command for command in found if command]


def job_commands() -> list[Command]:
    """Of the scripts: `for preset in A B` is unrolled, other variables stand for a name, "$@" for nothing."""
    found = []
    for path in sorted((ROOT / "jobs").glob("*")):
        text = path.read_text(encoding="utf-8")
        loops = re.findall(r"^\s*for (\w+) in ([^;$]*);", text, re.MULTILINE)
        values = {name: value.split() for name, value in loops}
        for n, line in joined(enumerate((raw.strip() for raw in text.splitlines()), 1)):
            example = line.startswith(("#   sbatch", "#   bash jobs/submit.sh"))
            if line.startswith("#") and not example:
                continue
            line = re.split(r"\s{2,}", line.removeprefix("#   "))[0]
            for preset in values.get("preset", ["ltcr-cartpole-9-1"]):
                filled = line.replace('"$@"', "").replace('${options[@]+"${options[@]}"}', "")
                filled = filled.replace("$preset", preset).replace('"$ranks"', "2")
                filled = filled.replace('"$run"', "runs/a")
                filled = re.sub(r"\$\{?(\w+)[^}\s\"/]*\}?", r"\1", filled)
                command = command_of(f"{label(path)}:{n}", words_of(filled))
                if command:
                    found.append(command)
    return found


def help_commands() -> list[Command]:
    """The examples of `mpi-ltcr --help` and of the programs' docstrings, explanations cut off."""
    texts = {"cli.HELP": cli.HELP}
    for path in MODULES:
        texts[label(path)] = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    found = []
    for place, text in texts.items():
        for line in text.splitlines():
            shown = re.split(r"\s{2,}", line.strip())[0].replace("[", "").replace("]", "")
            if shown.startswith(("mpirun ", "mpi-ltcr ")) and "VERB" not in shown:
                command = command_of(place, words_of(shown))
                assert command, line
                found.append(command)
    return found


COMMANDS = [*readme_commands(), *job_commands(), *help_commands()]


def test_there_are_commands_to_check_in_readme_jobs_and_help() -> None:
    assert len(readme_commands()) >= 8
    assert {c.argv[0] for c in job_commands()} >= {"train", "resume", "status"}
    assert len(job_commands()) >= 12
    assert len(help_commands()) >= 8


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: f"{c.place} {' '.join(c.argv)}")
def test_every_documented_command_is_understood_by_the_real_parser(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It starts a job, prints something, or has nothing to complain of but that the example's run is not there."""
    started = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PMI_SIZE", str(command.ranks))
    for runs in ("cli.run_job", "verbs.bench.run_bench"):
        monkeypatch.setattr(f"mpi_ltcr.{runs}", lambda *asked, **options: started.append(asked))
    try:
        cli.main(command.argv)
        code = 0
    except SystemExit as end:
        code = end.code or 0
    out, err = capsys.readouterr()
    if code == 2 and command.argv[0] not in ("train", "bench"):
        assert re.search(r"runs/\w+: (not a run directory|no readable status.json)", err), err
    else:
        assert (code, err) == (0, "")
        assert started or out
    assert not any(tmp_path.iterdir())


def test_a_wrong_command_in_a_document_would_be_found() -> None:
    words = words_of("mpirun -n 2 mpi-ltcr train ltcr-cartpole-9-1 --agent.learning_rate 3  # a comment")
    command = command_of("here", words)
    assert command == Command("here", 2, ["train", "ltcr-cartpole-9-1", "--agent.learning_rate", "3"])
    with pytest.raises(SystemExit):
        cli.main(command.argv)


def test_every_link_and_every_script_that_readme_names_is_there() -> None:
    text = README.read_text(encoding="utf-8")
    targets = {t.split("#")[0] for t in re.findall(r"\]\(([^)]+)\)", text) if "://" not in t}
    targets |= set(re.findall(r"\b(?:analysis|jobs|tests)/[\w./-]+\.(?:py|sh|sbatch)", text))
    assert len(targets) > 5
    assert sorted(t for t in targets if t and not (ROOT / t).exists()) == []


def test_readme_trains_only_presets_that_exist() -> None:
    from mpi_ltcr import options

    text = README.read_text(encoding="utf-8")
    assert "mpi-ltcr presets" in text
    named = set(re.findall(r"mpi-ltcr train (\w[\w.-]+)", text))
    assert len(named) > 3
    assert named <= set(options.preset_names())


# Files


@pytest.mark.parametrize("path", scripts(), ids=label)
def test_every_shell_script_parses_and_stops_at_its_first_error(path: Path) -> None:
    done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    text = path.read_text(encoding="utf-8")
    assert text.startswith("#!/usr/bin/env bash\n") or text.startswith("#!/bin/bash\n")
    commands = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert "set -euo pipefail" in text or len(commands) == 1


def test_shellcheck_has_nothing_to_say_about_any_shell_script() -> None:
    done = subprocess.run(["shellcheck", "-x", *map(label, scripts())], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_nothing_is_left_to_be_done_later() -> None:
    mark = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b")
    assert [label(path) for path in text_files() if mark.search(path.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize("path", MODULES, ids=label)
def test_a_module_is_short_enough_to_be_read(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


INHERITED = {"forward", "reset", "step", "render", "close", "error", "observation_space", "action_space"}
"""Methods whose meaning is torch's, Gymnasium's or argparse's."""


def classes(tree: ast.Module) -> list[ast.ClassDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]


def is_protocol(node: ast.ClassDef) -> bool:
    return any(ast.unparse(base).split("[")[0].endswith("Protocol") for base in node.bases)


def protocol_verbs() -> set[str]:
    """Methods that some Protocol of the house declares: their meaning is told there."""
    return {
        item.name
        for path in MODULES
        for node in classes(ast.parse(path.read_text(encoding="utf-8")))
        if is_protocol(node) or node.name == "Stateful"
        for item in node.body
        if isinstance(item, ast.FunctionDef)
    }


VERBS = protocol_verbs()


def undocumented(tree: ast.Module) -> Iterator[str]:
    def look(node: ast.Module | ast.ClassDef, prefix: str) -> Iterator[str]:
        for item in node.body:
            if not isinstance(item, ast.FunctionDef | ast.ClassDef) or item.name.startswith("_"):
                continue
            told = isinstance(node, ast.ClassDef) and item.name in VERBS | INHERITED
            if not (told or ast.get_docstring(item)):
                yield prefix + item.name
            if isinstance(item, ast.ClassDef):
                yield from look(item, f"{item.name}.")

    if not ast.get_docstring(tree):
        yield "the module"
    yield from look(tree, "")


@pytest.mark.parametrize("path", MODULES, ids=label)
def test_every_public_thing_says_what_it_does(path: Path) -> None:
    assert list(undocumented(ast.parse(path.read_text(encoding="utf-8")))) == []


def collectives_without_a_word(path: Path) -> Iterator[str]:
    """Functions of comm that call a collective of MPI but do not begin with saying so."""
    collective = re.compile(
        r"\.(I(gather|bcast|allgather|reduce|allreduce|barrier)|Allgather|Barrier|Dup|Split_type)\("
    )
    source = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            body = ast.get_source_segment(source, node) or ""
            documented = ast.get_docstring(node) or ""
            if collective.search(body) and "Collective." not in documented:
                yield node.name


def test_a_function_that_all_ranks_must_call_says_so() -> None:
    silent = [
        f"{label(p)}: {name}" for p in MODULES if p.parent.name == "comm" for name in collectives_without_a_word(p)
    ]
    assert silent == []
