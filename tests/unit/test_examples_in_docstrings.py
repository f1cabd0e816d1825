"""The examples in docstrings of what others build upon do what they show."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import fedfs

ROOMS = ("aggregation", "exchange", "store", "tensors")
MODULES = [
    name
    for room in ROOMS
    for name in (
        f"fedfs.{room}",
        *(
            module.name
            for module in pkgutil.walk_packages([f"{fedfs.__path__[0]}/{room}"], f"fedfs.{room}.")
        ),
    )
    if not name.startswith("fedfs.store.s3")  # needs an S3 client, and a server
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_print_what_they_show(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_examples():
    found = (doctest.DocTestFinder().find(importlib.import_module(name)) for name in MODULES)
    assert sum(bool(test.examples) for tests in found for test in tests) >= 7
