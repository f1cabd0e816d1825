"""The site that ``make docs`` builds: whole, and alone in the world."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import click
import pytest

from fedfs.cli import fedfs
from support.code_blocks import DOCUMENTS, ROOT
from support.error_page import error_messages

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = pytest.mark.xdist_group("documents")


class Page(HTMLParser):
    """What a page fetches, where it leads, its anchors and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.text = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        given = {name: value or "" for name, value in attrs}
        self.anchors.add(given.get("id", ""))
        if tag == "a":
            self.links.append(given.get("href", ""))
        else:
            named = (given[name] for name in ("src", "srcset", "href", "data") if name in given)
            self.fetched.extend(named)

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(built) -> dict[Path, Page]:
    return {path: Page(path) for path in built.rglob("*.html")}


def test_every_document_is_a_page_that_the_navigation_names(built, pages):
    config = (ROOT / "mkdocs.yml").read_text()
    named = re.findall(r": (\S+)\.md$", config, re.MULTILINE)
    assert len(named) == len(set(named)) == len(DOCUMENTS) + 1  # and CHANGELOG
    assert {built / f"{name}.html" for name in named} == pages.keys() - {built / "404.html"}
    assert not list(built.rglob("*.py"))


def test_pages_fetch_nothing_from_elsewhere(built, pages):
    for path, page in pages.items():
        for target in page.fetched:
            assert not re.match(r"(https?:)?//", target), f"{path.name} fetches {target}"
    for style in built.rglob("*.css"):
        assert not re.search(r"url\(\W*(https?:)?//|@import", style.read_text()), style


def test_links_lead_to_pages_and_anchors_of_the_site(built, pages):
    for path, page in pages.items():
        for link in page.links:
            target, _, anchor = unquote(link).partition("#")
            if re.match(r"[a-z]+:", target) or path.name == "404.html":
                continue
            found = (path.parent / target).resolve() if target else path
            assert found.exists(), f"{path.name} leads to {link}"
            if anchor and found in pages:
                assert anchor in pages[found].anchors, f"{path.name} leads to {link}"


def test_the_reference_holds_every_command_and_option(built, pages):
    text = pages[built / "commands.html"].text

    def look(command: click.Command, path: str) -> None:
        usage = text.partition(f"{path} [OPTIONS]")[2].partition("Usage:")[0]
        assert usage, path
        for parameter in command.params:
            names = (*parameter.opts, *parameter.secondary_opts)
            for name in names if isinstance(parameter, click.Option) else ():
                assert re.search(rf"(?<![\w-]){name}(?![\w-])", usage), f"{path} {name}"
        for name, child in getattr(command, "commands", {}).items():
            look(child, f"{path} {name}")

    look(fedfs, "fedfs")


def test_the_page_of_messages_holds_every_error(built, pages):
    text = " ".join(pages[built / "messages.html"].text.split())
    for message in error_messages.messages():
        assert " ".join(message.text.split()) in text, message
        assert " ".join(message.hint.split()) in text, message


@pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium"
)
def test_the_search_works_in_a_folder_too(built, tmp_path):
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=10000",
         "--enable-logging=stderr", "--dump-dom", f"{(built / 'index.html').as_uri()}?q=quorum"],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert "Uncaught" not in done.stderr
    assert re.search(r"\d+ matching documents", done.stdout)
    assert 'class="md-search-result__item"' in done.stdout
