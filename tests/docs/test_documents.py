"""The documents say what the code does: commands, options, keys, fields, exit codes, links."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import click
import pytest

import fedfs
from fedfs import errors, learner
from fedfs.aggregation.strategies import by_name
from fedfs.aggregation.weighting import POLICIES as WEIGHTINGS
from fedfs.cli import fedfs as cli
from fedfs.exchange.observer import MAX_ENVELOPE_BYTES
from fedfs.protocol import codec, layout, messages, round_policies
from fedfs.protocol.track_place import SHARED
from fedfs.roles.reader.metrics import METRICS
from fedfs.tensors.encodings import ENCODINGS

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
]
DOCUMENTS += sorted((ROOT / "docs").rglob("*.md"))
FURTHER = [*sorted((ROOT / "deploy").rglob("*.md")), ROOT / "examples" / "README.md"]
README = (ROOT / "README.md").read_text()
OPTIONS = (ROOT / "docs" / "options.md").read_text()
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text()
THREATS = (ROOT / "docs" / "threat-model.md").read_text()

COMMON = {field.name for field in dataclasses.fields(messages.Message)}
CLASSES = [cls for cls in vars(messages).values() if dataclasses.is_dataclass(cls)]
# Parts of messages:
CLASSES += [learner.ChannelSketch, learner.CaseGeometry, learner.ClassScore]
MESSAGES = [cls for cls in CLASSES if issubclass(cls, messages.Message) and hasattr(cls, "TYPE")]
MESSAGES.remove(messages.TrackCharter)  # a charter as it is read, which nobody writes
OBJECTS = [cls for cls in CLASSES if not issubclass(cls, messages.Message)]


def commands(command=cli, path="fedfs"):
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, f"{path} {name}")


COMMANDS = dict(commands())


def has_word(text, word):
    return re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text) is not None


def section(text, heading):
    """What stands between a heading and the next one."""
    match = re.search(
        rf"^#+ (?:[\d.]+ )?{re.escape(heading)}$(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL
    )
    assert match, f"there is no section {heading!r}"
    return match.group(1)


def rows(text):
    """Cells of the rows of a section's tables, headings and rulers left out."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [
        row
        for i, row in enumerate(cells)
        if not re.fullmatch(r":?-+:?", row[0]) and not _is_heading(cells, i)
    ]


def _is_heading(cells, i):
    return i + 1 < len(cells) and re.fullmatch(r":?-+:?", cells[i + 1][0]) is not None


def option_rows():
    """Command -> what the table of options says about it."""
    out, command = {}, ""
    for row in rows(section(OPTIONS, "Options")):
        if row[0]:
            command = re.match(r"`(fedfs(?: [a-z0-9-]+)+)", row[0]).group(1)
        out[command] = out.get(command, "") + " ".join(row[1:]) + "\n"
    return out


@pytest.mark.parametrize("path", [p for p, c in COMMANDS.items() if not isinstance(c, click.Group)])
def test_every_command_and_option_is_in_the_table(path):
    said = option_rows()
    assert path in said, f"{path} has no row in the table of options"
    for parameter in COMMANDS[path].params:
        if not isinstance(parameter, click.Option):
            continue
        if "--json" not in parameter.opts:  # said once for all commands
            if parameter.opts[0].startswith("--s3-"):  # said once for all commands
                assert all(
                    has_word(OPTIONS, o) for o in (*parameter.opts, *parameter.secondary_opts)
                )
                continue
            # One spelling beside the command; each spelling somewhere in the table.
            assert any(has_word(said[path], spelling) for spelling in parameter.opts), (
                parameter.name
            )
            for spelling in parameter.opts:
                assert has_word("\n".join(said.values()), spelling), f"{path} {spelling}"


def test_the_table_has_no_option_that_does_not_exist():
    for path, said in option_rows().items():
        parameters = COMMANDS[path].params
        known = {o for p in parameters for o in (*p.opts, *p.secondary_opts)} | {"--json"}
        spellings = re.findall(r"(?<![\w-])(--[a-z-]+)", said)
        assert set(spellings) <= known, path


def test_metrics_in_the_documents_exist():
    named = set(re.findall(r"\bfedfs_(\w+)", section(OPERATIONS, "Metrics for Prometheus")))
    assert named
    assert named <= METRICS.keys()


def test_options_of_the_group_are_documented():
    for parameter in cli.params:
        for spelling in parameter.opts:
            assert has_word(OPTIONS, f"fedfs {spelling}"), spelling


def test_exit_codes_in_the_documents_are_those_of_the_errors():
    branches = [errors.FedfsError, *errors.FedfsError.__subclasses__()]
    expected = {str(cls.exit_code): cls.__name__ for cls in branches}
    without = (errors.EXIT_OK, errors.EXIT_WAITING, errors.EXIT_NOTHING)
    expected |= {str(code): "none" for code in without}
    found = {row[0]: row[1].strip("`") for row in rows(section(OPTIONS, "Exit codes"))}
    assert found == expected


def test_the_readme_stays_short():
    lines = README.splitlines()
    assert len(lines) <= 150
    assert max(map(len, lines)) <= 120
    assert len(README.split()) <= 900


@pytest.mark.parametrize("path", [ROOT / "README.md", ROOT / "docs" / "results.md"])
def test_a_dice_in_a_table_stands_with_its_spread_or_as_one_run(path):
    signed = r"[-+]?[\d.]+"
    spread = rf"(?:± [\d.]+ )?\({signed} to {signed}\)(?:; {signed}(?:, {signed})+)?"  # each seed
    spread += r"|± [\d.]+|\(one run\)"
    cells = [cell for row in rows(path.read_text()) for cell in row]
    assert any("±" in cell for cell in cells)
    for cell in cells:
        others = re.sub(rf"\b[01]\.\d{{3}} (?:{spread})", "", cell)
        assert not re.search(r"\b[01]\.\d{3}\b(?! ms)", others), cell


def test_the_protocol_lists_every_kind_of_key():
    table = {row[0].strip("`"): row for row in rows(section(PROTOCOL, "Keys")) if row}
    assert table.keys() == layout.FORMS.keys()
    assert {kind for kind, row in table.items() if row[-1].startswith("once")} == SHARED
    for kind, (_, cell, *_) in table.items():
        example = re.findall(r"`([^`]+)`", cell)[0]
        key = re.sub(r"N+", lambda found: "1" * len(found.group()), example)
        key = key.replace("<site>", "north").replace("<sha256>", "0" * 64)
        parsed = layout.parse(key)
        assert parsed is not None, key
        assert parsed.kind == kind


@pytest.mark.parametrize("cls", MESSAGES, ids=lambda cls: cls.TYPE)
def test_the_protocol_describes_every_message(cls):
    fields = {field.name for field in dataclasses.fields(cls)} - COMMON
    assert {row[0].strip("`") for row in rows(section(PROTOCOL, f"`{cls.TYPE}`"))} == fields


@pytest.mark.parametrize("cls", OBJECTS, ids=lambda cls: cls.__name__)
def test_the_protocol_describes_every_object_inside_messages(cls):
    fields = {field.name for field in dataclasses.fields(cls)} - {"extra"}
    assert {row[0].strip("`") for row in rows(section(PROTOCOL, cls.__name__))} == fields


def test_all_messages_are_looked_at():
    assert len(MESSAGES) == 20


def test_the_protocol_describes_the_common_fields():
    found = {row[0].strip("`") for row in rows(section(PROTOCOL, "Messages"))}
    assert found == COMMON - {"extra"} | {"schema", "type"}


@pytest.mark.parametrize(
    "text",
    [
        f"`{messages.SCHEMA}`",
        f"{messages.MAX_BYTES // 2**20} MiB",
        f"{MAX_ENVELOPE_BYTES:,} bytes",
        f"{codec.MAX_DEPTH} levels, {codec._MAX_DIGITS} characters",
        *(f"`{name}`" for name in (*ENCODINGS, *WEIGHTINGS, *round_policies.POLICIES)),
        f"`{type(by_name('fedavg')).__name__}`",
    ],
)
def test_the_protocol_names_limits_and_rules(text):
    assert text in PROTOCOL


def test_tests_that_the_threat_model_names_exist():
    sources = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for name in set(re.findall(r"`(test_\w+)`", THREATS)):
        assert f"def {name}(" in sources, name


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_paths_and_links_lead_somewhere(path):
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        file, _, anchor = target.partition("#")
        if "://" in target:
            continue
        found = path.parent / file if file else path
        assert found.exists(), target
        assert not anchor or anchor in anchors(found.read_text()), target
    for name in re.findall(r"`((?:fedfs|tests|docs|bench)/[\w./]+\.(?:py|md))`", text):
        assert (ROOT / name).exists(), name


def prose(path):
    """Lines of a document that are no code, table or heading; in place of code spans an x."""
    text = re.sub(r"^ *```.*?^ *```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    for line in text.splitlines():
        if not re.match(r" *[|#]", line):
            yield re.sub(r"`[^`]*`", "x", re.sub(r"^ *(?:[-*]|[0-9]+\.) |\*\*[0-9]\. ", "", line))


@pytest.mark.parametrize("path", [*DOCUMENTS, *FURTHER], ids=lambda path: path.name)
def test_a_line_of_prose_is_one_sentence(path):
    for line in prose(path):
        outside = re.sub(r"\([^()]*\)", "", line)
        assert not re.search(r"(?<!et al)[a-z0-9)*\"][.?!] +[A-Z]", outside), line


def anchors(text):
    """Anchors of headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_changelog_names_the_current_version():
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(rf"^## \[{re.escape(fedfs.__version__)}\]", changes, re.MULTILINE)


def test_the_licence_is_the_one_that_the_package_names():
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License\n                           Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
