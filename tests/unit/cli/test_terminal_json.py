"""``--json`` of every command: one document on standard output, and nothing else there."""

from __future__ import annotations

import json

import click
from click.testing import CliRunner

from fedfs.cli import fedfs as cli
from fedfs.errors import EXIT_WAITING
from fedfs.store import open_store
from support.command_lines import all_commands
from support.federation import Federation, reach

ELSEWHERE = {"init", "site join", "site run", "export", "simulate", "demo"}
"""Commands that need nnU-Net; tests of theirs read their JSON."""

STEPS = [  # in this order: who runs what, with which exit code; keys of the document
    ("coordinator", "status STORE", 0, "phase sites version"),
    ("coordinator", "log STORE", 0, "events hidden"),
    ("coordinator", "charter STORE", 0, "amendments charter members number sections study"),
    ("coordinator", "report STORE", 0, "facts"),
    ("coordinator", "privacy STORE --site north", 0, "disclosures never readers site"),
    ("coordinator", "verify STORE", 0, "findings problems"),
    ("coordinator", "doctor STORE --aggregator", 0, "findings problems"),
    ("coordinator", "approve STORE --all", 0, "approved charter"),
    ("coordinator", "pause STORE north", 0, "charter roster"),
    ("coordinator", "resume STORE north", 0, "charter roster"),
    ("north", "site pause STORE --site north", 0, "changed site status"),
    ("north", "site resume STORE --site north", 0, "changed site status"),
    ("coordinator", "close-round STORE --yes", 0, "charter closed_rounds"),
    ("coordinator", "aggregate STORE --once", 0, "done finished text worked"),
    (
        "coordinator",
        "bundle export STORE --for north -o FOLDER/a --plain --everything",
        0,
        "n_objects paths",
    ),
    ("north", "bundle show FOLDER/a", 0, "bytes header items"),
    ("north", "bundle import FOLDER/a FOLDER/north", 0, "header n_new n_there"),
    (
        "north",
        "bundle export FOLDER/north --from north -o FOLDER/b",
        EXIT_WAITING,
        "n_objects paths",
    ),
    ("coordinator", "sync STORE FOLDER/outpost --site north", 0, "done finished text worked"),
    ("coordinator", "key show STORE", 0, "keys"),
    ("coordinator", "key export-public STORE --aggregator", 0, "encryption_key public_key"),
    ("north", "key create STORE --aggregator", 0, "encryption_key fingerprint public_key role"),
    ("north", "key rotate STORE --site north --yes", 0, "new_key site"),
    ("coordinator", "key rotate STORE --aggregator --yes", 0, "counts_from new_key role"),
    ("coordinator", "remove STORE south --yes", 0, "charter roster"),
    ("north", "site leave STORE --site north --yes", 0, "changed site status"),
]


def test_every_command_has_json():
    commands = {" ".join(path[1:]): command for path, command in all_commands()}
    leaves = {p: c for p, c in commands.items() if not isinstance(c, click.Group)}
    for path, command in leaves.items():
        assert any("--json" in option.opts for option in command.params), path
    tried = {path for path in leaves for _, words, *_ in STEPS if words.startswith(f"{path} ")}
    tried |= {path for path in leaves if path.startswith("deploy ")}  # test_deploy.py
    assert leaves.keys() == tried | ELSEWHERE


def test_what_is_printed_is_one_document(tmp_path):
    store = open_store(str(tmp_path / "store"), must_exist=False)
    federation = Federation(tmp_path / "hosts", store=store).start()
    reach(federation, 1)
    for site in federation.targets:
        federation.run_process(site)
    for host, words, code, keys in STEPS:
        given = words.replace("STORE", store.url).replace("FOLDER", str(tmp_path)).split()
        done = CliRunner().invoke(
            cli, [*given, "--json"], env={"FEDFS_HOME": str(federation.home(host))}
        )
        assert done.exit_code == code, f"{words}: {done.output} {done.exception!r}"
        document = json.loads(done.stdout)
        assert document.keys() >= set(keys.split()), words
