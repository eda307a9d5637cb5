"""The codec of checkpoints: what goes in comes out, and a hostile file is refused before it costs anything."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import most_memory_of
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mpi_ltcr.archive.tree import MAX_DEPTH, MAX_ITEMS, TreeError, read_tree, write_tree

DTYPES = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="?"),
    hnp.unsigned_integer_dtypes(endianness="?"),
    hnp.floating_dtypes(sizes=(16, 32, 64), endianness="?"),
    hnp.complex_number_dtypes(sizes=(64, 128)),
)
ARRAYS = hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**200), 2**200),
    st.floats(),
    st.text(st.characters(codec="utf-8", exclude_characters="\0")),
)
NAME_CHARACTERS = st.characters(codec="utf-8", exclude_characters="\0/")
NAMES = st.text(NAME_CHARACTERS, min_size=1, max_size=8).filter(lambda name: name != ".")
TREES = st.recursive(
    st.dictionaries(NAMES, SCALARS | ARRAYS, max_size=4),
    lambda below: st.dictionaries(NAMES, below | SCALARS | ARRAYS, max_size=4),
    max_leaves=8,
)


def in_memory() -> h5py.File:
    return h5py.File.in_memory()


def same(a: Any, b: Any) -> bool:
    """Equal in type, dtype, shape and every bit; NaN equals itself."""
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    if isinstance(a, np.ndarray):
        alike = isinstance(b, np.ndarray) and (a.dtype, a.shape) == (b.dtype, b.shape)
        return alike and a.tobytes() == b.tobytes()
    if isinstance(a, float):
        return type(b) is float and np.float64(a).tobytes() == np.float64(b).tobytes()
    return type(a) is type(b) and a == b


@pytest.mark.fault("D35", "150 random states, saved and loaded (one injection stands for them)")
@settings(deadline=None, derandomize=True, max_examples=150)
@given(TREES)
def test_a_tree_comes_back_with_every_type_dtype_shape_and_bit(tree: dict[str, Any]) -> None:
    with in_memory() as file:
        write_tree(file, tree)
        assert same(read_tree(file), tree)


def test_the_states_of_numpy_generators_survive_with_their_128_bit_integers() -> None:
    generator = np.random.default_rng(7)
    generator.integers(10, size=3)  # leaves half a word behind, which is state too
    with in_memory() as file:
        write_tree(file, {"rng": generator.bit_generator.state})
        copy = np.random.default_rng(0)
        copy.bit_generator.state = read_tree(file)["rng"]
    assert copy.integers(2**62, size=5).tolist() == generator.integers(2**62, size=5).tolist()


def test_a_strided_view_is_saved_as_what_it_shows() -> None:
    array = np.arange(24).reshape(4, 6)
    with in_memory() as file:
        write_tree(file, {"view": array[::2, ::-3]})
        assert read_tree(file)["view"].tolist() == [[5, 2], [17, 14]]


@pytest.mark.parametrize(
    ("tree", "place"),
    [
        ({"a": {"b": object()}}, "/a/b"),
        ({"a": [1, 2]}, "/a"),
        ({"a": np.array(["text"])}, "/a"),
        ({"a": np.array([None, 1])}, "/a"),
        ({"a/b": 1}, "a/b"),
        ({"": 1}, "''"),
        ({3: 1}, "3"),
    ],
)
def test_what_cannot_be_saved_is_refused_with_its_place(tree: dict[Any, Any], place: str) -> None:
    with in_memory() as file, pytest.raises(TypeError, match=place):
        write_tree(file, tree)


def external_link(file: h5py.File, folder: Path) -> None:
    with h5py.File(folder / "other.h5", "w") as other:
        other["x"] = np.arange(3)
    file["a"] = h5py.ExternalLink(str(folder / "other.h5"), "/x")


def link_to_passwd(file: h5py.File, folder: Path) -> None:
    file["a"] = h5py.ExternalLink("/etc/passwd", "/")


def soft_link_to_itself(file: h5py.File, folder: Path) -> None:
    file["a"] = h5py.SoftLink("/a")


def soft_link_within(file: h5py.File, folder: Path) -> None:
    file["b"] = np.arange(3)
    file["a"] = h5py.SoftLink("/b")


def group_within_itself(file: h5py.File, folder: Path) -> None:
    group = file.create_group("a")
    group["again"] = group
    group["more"] = file["/"]


def virtual_dataset(file: h5py.File, folder: Path) -> None:
    layout = h5py.VirtualLayout(shape=(3,), dtype="i8")
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "x", shape=(3,))
    file.create_virtual_dataset("a", layout)


def external_storage(file: h5py.File, folder: Path) -> None:
    (folder / "raw").write_bytes(bytes(24))
    file.create_dataset("a", shape=(3,), dtype="i8", external=[(str(folder / "raw"), 0, 24)])


def claims_a_quadrillion(file: h5py.File, folder: Path) -> None:
    file.create_dataset("a", shape=(10**15,), dtype="f8")


def claims_three_gigabytes(file: h5py.File, folder: Path) -> None:
    file.create_dataset("a", shape=(4 * 10**8,), dtype="f8")  # few enough to be allocated, and filled with zeros


def one_array_by_many_names(file: h5py.File, folder: Path) -> None:
    one = file.create_dataset("a", data=np.zeros(10**6, np.uint8))
    for i in range(1500):
        file[f"a{i}"] = one


def one_text_by_many_names(file: h5py.File, folder: Path) -> None:
    file["a"] = "x" * 10**6
    file["a"].attrs["kind"] = "str"
    for i in range(1500):
        file[f"a{i}"] = file["a"]


def claims_a_quadrillion_in_chunks(file: h5py.File, folder: Path) -> None:
    file.create_dataset("a", shape=(10**15,), dtype="f8", chunks=(1024,))


def claims_a_gigantic_scalar(file: h5py.File, folder: Path) -> None:
    kind = h5py.h5t.C_S1.copy()
    kind.set_size(10**15)
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_LATE)
    h5py.h5d.create(file.id, b"a", kind, h5py.h5s.create(h5py.h5s.SCALAR), plist)
    file["a"].attrs["kind"] = "str"


def compressed(file: h5py.File, folder: Path) -> None:
    file.create_dataset("a", data=np.zeros(10**6), compression="gzip")


def unknown_kind(file: h5py.File, folder: Path) -> None:
    file["a"] = np.float64(1)
    file["a"].attrs["kind"] = "pickle"


def kind_that_is_no_name(file: h5py.File, folder: Path) -> None:
    file["a"] = np.float64(1)
    file["a"].attrs["kind"] = np.arange(3)


def scalar_with_a_shape(file: h5py.File, folder: Path) -> None:
    file["a"] = np.zeros(3)
    file["a"].attrs["kind"] = "float"


def no_integer(file: h5py.File, folder: Path) -> None:
    file["a"] = "__import__('os')"
    file["a"].attrs["kind"] = "int"


def integer_of_a_million_digits(file: h5py.File, folder: Path) -> None:
    file["a"] = "9" * 10**6
    file["a"].attrs["kind"] = "int"


def text_without_kind(file: h5py.File, folder: Path) -> None:
    file["a"] = "cos\nsystem\n(S'true'\ntR."


def compound(file: h5py.File, folder: Path) -> None:
    file["a"] = np.zeros(2, [("x", "f8"), ("y", "i8")])


def named_type(file: h5py.File, folder: Path) -> None:
    file["a"] = np.dtype("f8")


def null_space(file: h5py.File, folder: Path) -> None:
    file["a"] = h5py.Empty("f8")


def too_many_items(file: h5py.File, folder: Path) -> None:
    group = file.create_group("a")
    one = group.create_dataset("x", data=1.0)
    for i in range(MAX_ITEMS):
        group[str(i)] = one


def too_deep(file: h5py.File, folder: Path) -> None:
    file.create_group("/".join("a" * (MAX_DEPTH + 2)))


HOSTILE = [
    external_link,
    link_to_passwd,
    soft_link_to_itself,
    soft_link_within,
    group_within_itself,
    virtual_dataset,
    external_storage,
    claims_a_quadrillion,
    claims_three_gigabytes,
    one_array_by_many_names,
    one_text_by_many_names,
    claims_a_quadrillion_in_chunks,
    claims_a_gigantic_scalar,
    compressed,
    unknown_kind,
    kind_that_is_no_name,
    scalar_with_a_shape,
    no_integer,
    integer_of_a_million_digits,
    text_without_kind,
    compound,
    named_type,
    null_space,
    too_many_items,
    too_deep,
]


@pytest.mark.fault("C27", "a hostile HDF5 file: links, claimed sizes, filters, pickle, too many or too deep groups")
@pytest.mark.parametrize("build", HOSTILE, ids=lambda build: build.__name__)
def test_a_hostile_file_is_refused_within_a_second(build: Callable[[h5py.File, Path], None], tmp_path: Path) -> None:
    with h5py.File(tmp_path / "hostile.h5", "w") as file:
        build(file, tmp_path)

    def read() -> None:
        with h5py.File(tmp_path / "hostile.h5", "r") as file:
            start = time.process_time()
            with pytest.raises(TreeError):
                read_tree(file)
            assert time.process_time() - start < 1

    assert most_memory_of(read) < 200
