"""Documents name files, functions and rooms of fedfs that exist."""

from __future__ import annotations

import ast
import itertools
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
DOCUMENTS = [ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

SCHEMA = re.compile(r"fedfs/\d")  # the protocol's version as messages spell it
CLONE = re.compile(r"fedfs/(?:\.venv|first-study)")  # seen from beside a clone, as in the tutorial
PATH = re.compile(r"(?<![\w./-])(?:fedfs|tests|bench)/[\w./-]+")
NAME = re.compile(r"[A-Za-z_]\w*(?:\.\w+)?")


def code_in(line):
    return re.findall(r"`([^`]+)`", line)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_path_into_code_exists(path):
    for found in PATH.findall(path.read_text()):
        name = found.rstrip(".")
        if not SCHEMA.match(name) and not CLONE.match(name):
            assert (ROOT / name).exists(), f"{path.name} names {name}"


def table_after(introduction):
    """First cells of the table that follows a line, without headings."""
    lines = iter(CONTRIBUTING.partition(f"\n{introduction}\n")[2].lstrip("\n").splitlines())
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append(line.split("|")[1].strip())
    return [code_in(row)[0] for row in rows[2:]]


def modules_in(folder):
    """Rooms and modules in a folder, as the tables spell them."""
    python = {path.parent for path in folder.glob("*/*.py")}
    files = {path.name for path in folder.glob("*.py") if not path.name.startswith("__")}
    return {f"{path.name}/" for path in python} | files


@pytest.mark.parametrize("room", ["roles", "nnunet"])
def test_the_lists_inside_rooms_are_complete(room):
    listed = table_after(f"Inside `fedfs/{room}/`:")
    assert len(listed) == len(set(listed))
    assert set(listed) == modules_in(ROOT / "fedfs" / room)


def first_table_of(heading):
    """First cells of the first table of a section."""
    section = CONTRIBUTING.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    table = section[section.index("\n|") + 1 :].partition("\n\n")[0]
    listed = [code_in(line)[0] for line in table.splitlines()[2:]]
    assert len(listed) == len(set(listed))
    return set(listed)


def test_the_table_of_rooms_is_complete():
    assert first_table_of("Rooms") == {f"fedfs/{name}" for name in modules_in(ROOT / "fedfs")}


def test_the_table_of_tests_is_complete():
    folders = {path.relative_to(ROOT).parts[1] for path in (ROOT / "tests").glob("*/**/*.py")}
    assert first_table_of("Tests") == {f"tests/{name}/" for name in folders}


def test_the_table_of_libraries_names_the_homes_that_the_contracts_allow():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    homes = {}
    for contract in contracts["contracts"]:
        if contract.get("source_modules") == ["fedfs"]:
            for allowed in contract["ignore_imports"]:
                module, library = allowed.split(" -> ")
                home = module.rstrip(".*").replace(".", "/")
                homes.setdefault(library, set()).add(home)
    table = CONTRIBUTING.partition("| library | home |")[2].partition("\n\n")[0]
    for row in table.strip().splitlines()[1:]:
        libraries, home = (cell.strip() for cell in row.strip("|").split("|"))
        named = {one.strip("`").removesuffix(".py").removesuffix("/") for one in home.split(", ")}
        for library in libraries.split(", "):
            assert homes.pop(library) == named, library
    assert not homes


@cache
def definitions(path):
    """Names that a module defines at its top, and names of its classes' members behind a dot."""
    found = set()
    for node in ast.parse((ROOT / path).read_text()).body:
        found |= set(names_of(node))
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{name}" for child in node.body for name in names_of(child)}
    return found


def names_of(node):
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        yield node.target.id
    elif isinstance(node, ast.Assign):
        yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def files_and_names():
    """Each file of the architecture page, with the names that stand beside it.

    In a table they are those of the next cell, elsewhere those in the same parentheses.
    """
    for line in ARCHITECTURE.splitlines():
        parts = line.split("|") if line.startswith("|") else []
        pairs = list(itertools.pairwise(parts))
        for inside in re.findall(r"\(([^()]*`fedfs/[^()]*)\)", line):
            pairs.append((inside, inside))
        for cell, beside in pairs:
            for file in code_in(cell):
                if file.startswith("fedfs/") and file.endswith(".py"):
                    yield file, [name for name in code_in(beside) if NAME.fullmatch(name)]


def test_names_on_the_architecture_page_are_defined_in_the_files_beside_them():
    checked = 0
    for file, names in files_and_names():
        for name in names:
            assert name in definitions(file), f"{file} does not define {name}"
            checked += 1
    assert checked > 50


def test_actions_and_messages_on_the_architecture_page_exist():
    known = set()
    for path in (ROOT / "fedfs").rglob("*.py"):
        known |= definitions(path.relative_to(ROOT).as_posix())
    for name in re.findall(r"`((?:[A-Z][a-z]+){2,}|[A-Z][A-Za-z]+\.\w+)`", ARCHITECTURE):
        assert name in known, f"fedfs defines no {name}"


def test_registries_that_how_to_add_names_are_in_the_files_beside_them():
    text = CONTRIBUTING.partition("## How to add")[2].partition("\n## ")[0]
    checked = 0
    for paragraph in text.split("\n\n"):
        defined = {
            name
            for file in code_in(paragraph)
            if file.startswith("fedfs/") and file.endswith(".py")
            for name in definitions(file)
        }
        for name in re.findall(r"`(_?[A-Z]{4,}|open_\w+)`", paragraph):
            assert name in defined, paragraph
            checked += 1
    assert checked >= 7
