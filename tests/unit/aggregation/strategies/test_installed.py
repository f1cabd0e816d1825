"""Strategies of installed packages: what a name may select, and what a broken package says."""

from __future__ import annotations

import sys

import pytest

from fedfs.aggregation.strategies import FedAvg, by_name, package_of, proximal_mu
from fedfs.errors import SetupError, UserError

GOOD = """
from dataclasses import dataclass
from fedfs.aggregation.strategies import POSITIVE, FedAvg, option

@dataclass(frozen=True, kw_only=True)
class Half(FedAvg):
    factor: float = option(0.5, POSITIVE)
    def step(self, mean, state, version):
        return self.factor * mean, {}

@dataclass(frozen=True, kw_only=True)
class NoDefault(FedAvg):
    factor: float

@dataclass(frozen=True, kw_only=True)
class Held(FedAvg):
    proximal_mu: float = 0.1
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a package of one module with some entry points, as pip leaves one behind."""
    modules = []

    def install(package: str, code: str, **points: str) -> None:
        folder = tmp_path / package
        info = folder / f"{package}-1.5.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.5\n")
        lines = [f"{name} = {package}_module:{of}\n" for name, of in points.items()]
        (info / "entry_points.txt").write_text("[fedfs.strategies]\n" + "".join(lines))
        (folder / f"{package}_module.py").write_text(code)
        monkeypatch.syspath_prepend(str(folder))
        modules.append(f"{package}_module")

    yield install
    for name in modules:
        sys.modules.pop(name, None)


def test_a_strategy_of_a_package_is_found_by_its_entry_point(install):
    install("halves", GOOD, Half="Half")
    strategy = by_name("HALF", {"factor": 0.25})
    assert isinstance(strategy, FedAvg)
    assert strategy.factor == 0.25
    assert package_of("half") == {"halves": "1.5"}
    assert package_of("FedAvg") == package_of("Third") == {}


def test_a_name_of_fedfs_means_its_own_whatever_is_installed(install):
    install("halves", GOOD, FedAvg="Half", fedavg="Half")
    assert by_name("FedAvg") == FedAvg()
    assert package_of("FedAvg") == {}
    with pytest.raises(UserError) as caught:
        by_name("FedBest")
    assert "packages installed here: none" in caught.value.hint


def test_an_unknown_name_lists_what_is_installed(install):
    install("halves", GOOD, Half="Half", Held="Held")
    with pytest.raises(UserError, match="Unknown strategy 'Quarter'") as caught:
        by_name("Quarter")
    assert "FedAvg" in caught.value.hint
    assert "packages installed here: Half, Held" in caught.value.hint


@pytest.mark.parametrize(
    "name",
    ["halves_module", "halves_module:Half", "halves_module.Half", "../halves", "os:system", ""],
)
def test_the_name_of_a_module_or_a_path_selects_nothing(install, name, tmp_path):
    install("halves", f"open({str(tmp_path / 'imported')!r}, 'w')\n" + GOOD, Half="Half")
    for text in (name, str(tmp_path / "halves" / "halves_module.py")):
        with pytest.raises(UserError, match="Unknown strategy"):
            by_name(text)
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize(
    ("code", "of", "said"),
    [
        ("import no_such_module", "Half", "no_such_module"),
        ("raise RuntimeError('needs a licence')", "Half", "needs a licence"),
        ("def Half(:", "Half", "SyntaxError"),
        (GOOD, "Third", "Third"),
        (GOOD, "option", "is no strategy"),
        ("Half = int", "Half", "is no strategy"),
        (GOOD, "NoDefault", "Option 'factor'"),
    ],
)
def test_a_broken_package_is_named(install, code, of, said):
    install("broken", code, Half=of)
    with pytest.raises(SetupError) as caught:
        by_name("Half")
    text = f"{caught.value} {caught.value.hint}"
    assert "broken" in text
    assert said in text


def test_two_packages_with_one_name_are_both_named(install):
    install("halves", GOOD, Half="Half")
    install("others", GOOD, half="Half")
    with pytest.raises(SetupError, match="halves") as caught:
        by_name("Half")
    assert "others" in str(caught.value)


def test_sites_are_held_by_what_the_charter_says_and_need_no_package(install):
    assert proximal_mu("Half", {"factor": 0.25}) == 0
    assert proximal_mu("Held", {"proximal_mu": 0.1}) == 0.1
    assert proximal_mu("FedProx", {}) == by_name("FedProx").proximal_mu > 0
    with pytest.raises(UserError):
        proximal_mu("Held", {"proximal_mu": -1.0})
    install("halves", GOOD, Held="Held")
    with pytest.raises(UserError, match="no site knows") as caught:
        by_name("Held")
    assert "proximal_mu=0.1" in caught.value.hint
    assert by_name("Held", {"proximal_mu": 0.1, "clip_norm": 1}).proximal_mu == 0.1
