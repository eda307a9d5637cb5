"""Who may import whom: the allow-list of the design, checked on the source. The science wing never sees the machine."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE, ANALYSIS = ROOT / "mpi_ltcr", ROOT / "analysis"
MODULES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted(ANALYSIS.glob("*.py"))

SCIENCE = {"formulas", "nets", "memory", "envs", "agents"}
MACHINE = {"comm", "archive"}
CONFIG = {"config", "yaml_check", "options"}
EVERYTHING = SCIENCE | MACHINE | {"interfaces", "seeds", "steppers", "interaction", "transfer", "config"}

ALLOWED: dict[str, set[str]] = {
    "__init__": set(),
    "__main__": {"cli"},
    "interfaces": set(),
    "seeds": set(),
    "formulas": set(),
    "nets": {"formulas"},
    "memory": {"interfaces"},
    "envs": {"interfaces"},
    "steppers": {"interfaces", "nets"},
    "agents": {"interfaces", "formulas", "nets", "memory", "steppers"},
    "comm": {"interfaces"},
    "archive": {"interfaces"},
    "interaction": {"interfaces"},
    "bench": EVERYTHING | {"options", "assembly_c51", "assembly_ca3c", "programs"},
    "transfer": {"interfaces", "formulas", "nets", "memory", "comm", "steppers"},
    "config": set(),
    "yaml_check": {"config"},
    "options": {"config", "yaml_check"},
    "rivals": {"archive", "config", "envs", "interfaces", "options"},
    "devices": {"config"},
    "assembly": EVERYTHING | {"options", "assembly_agents", "rivals"},
    "assembly_agents": EVERYTHING | {"assembly_c51"},
    "assembly_c51": EVERYTHING,
    "assembly_ca3c": EVERYTHING | {"options", "assembly"},
    "programs": {"interfaces", "interaction", "assembly", "assembly_agents", "assembly_ca3c", "comm", "archive"}
    | {"formulas", "config", "devices", "options", "seeds", "envs", "transfer", "rivals"},
    "verbs": {"config", "options", "comm", "programs", "archive", "envs", "rivals"},
    "cli": {"config", "options", "comm", "programs", "archive", "verbs"},
}
"""Room (a folder, or a file beside them) -> rooms that it may import from, besides itself."""

DEVIATIONS: dict[str, set[str]] = {
    "verbs/bench.py": {"bench"},  # a room that nobody else enters
    "programs/listening.py": {"nets"},  # trained networks that play and look on: nobody's agents
    "programs/align.py": {"nets", "steppers"},  # trains an alignment network and nothing else: it is its own agent
    "programs/serving.py": {"steppers"},  # the server's half of Algorithm 1 applies the gradients
    "analysis/action_distributions.py": {"programs"},  # no log holds them: the networks of a run play
    "analysis/peers.py": {"envs"},  # all libraries play the same game
    "analysis/linear_convergence.py": {"formulas", "nets"},  # an experiment on the formulas, not on a run
}
"""Where one file goes further, and why."""

ONLY_IN: dict[str, tuple[str, ...]] = {
    "mpi4py": ("mpi_ltcr/comm/",),
    "h5py": ("mpi_ltcr/archive/", "analysis/"),
    "ale_py": ("mpi_ltcr/envs/atari.py", "mpi_ltcr/bench/env.py"),  # the second measures the emulator alone
    "matplotlib": ("analysis/",),
    "pandas": ("analysis/",),
    "scipy": ("analysis/",),
    "jsonargparse": tuple(f"mpi_ltcr/{name}" for name in CONFIG),
    "numba": ("mpi_ltcr/agents/c51_kernels.py",),
    "yaml": tuple(f"mpi_ltcr/{name}" for name in CONFIG),
}
"""Third parties that have one place."""

WITHOUT_TORCH = {
    "interfaces",
    "seeds",
    "memory",
    "envs",
    "comm",
    "archive",
    "interaction",
    "cli",
    "rivals",
    "verbs",
} | CONFIG


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """(dotted module, whether at the top level of the file) of everything that a file imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide who imports whom"
            yield from ((f"{node.module}.{alias.name}", id(node) in top) for alias in node.names)


def room_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


def our_rooms(path: Path) -> set[str]:
    dotted = [name.split(".") for name, _ in imports(path) if name.split(".")[0] == "mpi_ltcr"]
    return {parts[1] for parts in dotted if not parts[1].startswith("__")}


@pytest.mark.parametrize("path", MODULES, ids=label)
def test_a_module_imports_only_what_its_room_may(path: Path) -> None:
    room = room_of(path)
    assert room in ALLOWED, f"{room} is new: say in ALLOWED what it may import"
    further = DEVIATIONS.get(str(path.relative_to(PACKAGE)), set())
    assert our_rooms(path) - ALLOWED[room] - {room} - further == set()


@pytest.mark.parametrize("path", SCRIPTS, ids=label)
def test_analysis_sees_a_run_only_through_its_files(path: Path) -> None:
    dotted = {".".join(name.split(".")[1:3]) for name, _ in imports(path) if name.startswith("mpi_ltcr.")}
    allowed = {"archive.schema", "archive.reader", "config"} | {f"config.{name}" for name in ("Config", "ConfigError")}
    further = DEVIATIONS.get(label(path), set())
    assert {name for name in dotted - allowed if name.split(".")[0] not in further} == set()


def test_every_deviation_is_still_one() -> None:
    for name, further in DEVIATIONS.items():
        path = ROOT / name if name.startswith("analysis/") else PACKAGE / name
        assert further <= our_rooms(path), f"{name} has mended its ways: strike it from DEVIATIONS"


def test_the_science_wing_and_the_machine_wing_never_see_each_other() -> None:
    """Stated apart from the table, so that editing the table cannot undo it."""
    for path in MODULES:
        seen = our_rooms(path)
        if room_of(path) in SCIENCE:
            assert not seen & MACHINE, label(path)
        if room_of(path) in MACHINE:
            assert not seen & SCIENCE, label(path)


@pytest.mark.parametrize("path", [*MODULES, *SCRIPTS], ids=label)
def test_third_parties_stay_in_their_place(path: Path) -> None:
    for name in {dotted.split(".")[0] for dotted, _ in imports(path)}:
        assert label(path).startswith(ONLY_IN.get(name, ("",))), f"{name} belongs in {ONLY_IN[name]}"


def test_nothing_that_answers_at_once_imports_torch() -> None:
    guilty = [
        label(path)
        for path in MODULES
        if room_of(path) in WITHOUT_TORCH and any(name.split(".")[0] == "torch" for name, _ in imports(path))
    ]
    assert guilty == []


OPTIONAL: dict[str, str] = {
    "mpi_ltcr/envs/space_battle.py": "pettingzoo",  # its base class; one agent alone plays without
    "mpi_ltcr/agents/c51_kernels.py": "numba",  # only who asks for the compiled backend must have it
    "mpi_ltcr/envs/space_battle_render.py": "PIL",  # only who draws must have it
}
"""Files that need what the package does not install; nobody may import them at the top."""


def test_what_is_imported_at_the_top_of_a_module_is_installed_with_the_package() -> None:
    required = re.search(r"install_requires=\[(.*?)\]", (ROOT / "setup.py").read_text(), re.DOTALL)
    assert required
    names = {name.lower().replace("-", "_") for name in re.findall(r'"([A-Za-z0-9_-]+)[><=]', required.group(1))}
    for path in MODULES:
        for dotted, top in imports(path):
            name = dotted.split(".")[0]
            if not top or name in sys.stdlib_module_names or OPTIONAL.get(label(path)) == name:
                continue
            if name == "mpi_ltcr":
                optional = {Path(other).stem for other in OPTIONAL}
                assert not optional & set(dotted.split(".")), f"{label(path)} imports {dotted} for everybody"
            else:
                own_name = "pyyaml" if name == "yaml" else name
                assert own_name.lower() in names, f"{label(path)} imports {name} for everybody"


def test_one_file_names_the_communicator_of_the_whole_job() -> None:
    naming = [
        label(path)
        for path in MODULES
        if any(isinstance(n, ast.Attribute) and n.attr == "COMM_WORLD" for n in ast.walk(ast.parse(path.read_text())))
    ]
    assert naming == ["mpi_ltcr/comm/runtime.py"]


PICKLING = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
PICKLED_CALLS = {"send", "recv", "isend", "irecv", "ssend", "bcast", "gather", "allgather", "scatter", "alltoall"}


@pytest.mark.parametrize("path", [*MODULES, *SCRIPTS], ids=label)
def test_nothing_is_pickled_neither_to_disk_nor_over_the_wire(path: Path) -> None:
    assert {name.split(".")[0] for name, _ in imports(path)} & PICKLING == set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value)
            where = f"{label(path)}:{node.lineno}: {ast.unparse(node)}"
            assert (owner, node.attr) not in (("torch", "load"), ("torch", "save")), where
            assert not (owner.split(".")[-1] == "comm" and node.attr in PICKLED_CALLS), where
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert ast.unparse(node.value) == "False", f"{label(path)}:{node.value.lineno}"
