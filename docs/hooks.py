"""Makes pages of the documents as they lie in the repository; called by MkDocs (``mkdocs.yml``).

Rules:
 * Documents outside of ``docs/`` are pages too; links between documents are written for the
   repository, and lead to the page here.
 * A link to anything else in the repository has no page here, and becomes plain text.
 * Of a fence's first line only the language stays; the rest is for the tests.
 * The commands with their help, and the errors, are read from the code of fedfs, where a page has
   a line for them.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import error_messages
from mkdocs.structure.files import File, Files

from fedfs.cli import fedfs

_ROOT = Path(__file__).parents[1]
_PAGES = {
    "README.md": "readme.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "deploy/README.md": "deploy/index.md",
    "deploy/s3/README.md": "deploy/s3/index.md",
}
_ERRORS, _COMMANDS = "<!-- all errors -->", "<!-- all commands -->"
_FENCED = re.compile(r"(^ *```.*?^ *```$)", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add the documents outside of ``docs/``."""
    for path, page in _PAGES.items():
        files.append(File.generated(config, page, content=(_ROOT / path).read_text()))
    return files


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:
    """Rewrite the links and fences of a page, and fill in what is read from the code."""
    place = page.file.src_uri
    if _ERRORS in markdown:
        markdown = markdown.replace(_ERRORS, error_messages.page())
    if _COMMANDS in markdown:
        markdown = markdown.replace(_COMMANDS, "\n".join(_helps(fedfs, "fedfs")))
    origins = {to: path for path, to in _PAGES.items()}
    origin = origins.get(place, f"docs/{place}")

    def rewritten(link: re.Match[str]) -> str:
        text, target = link.groups()
        path, sign, anchor = target.partition("#")
        if "://" in target or not path:
            return link.group()
        path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), path))
        found = _PAGES.get(path, path.removeprefix("docs/"))
        if files.get_file_from_path(found) is None:
            return text
        found = posixpath.relpath(found, posixpath.dirname(place))
        return f"[{text}]({found}{sign}{anchor})"

    parts = _FENCED.split(markdown)
    parts[::2] = [_LINK.sub(rewritten, part) for part in parts[::2]]
    parts[1::2] = [re.sub(r"^( *```\w*).*", r"\1", part) for part in parts[1::2]]
    return "".join(parts)


def _helps(command: click.Command, path: str) -> Iterator[str]:
    """Yield a section with the help of a command, and those of the commands below it."""
    context = click.Context(command, info_name=path, **fedfs.context_settings)
    yield f"## {path}\n\n```text\n{command.get_help(context)}\n```\n"
    for name, child in getattr(command, "commands", {}).items():
        yield from _helps(child, f"{path} {name}")
