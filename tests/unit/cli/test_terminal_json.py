"""The example of each command works; with ``--json`` it prints one document and nothing else."""

from __future__ import annotations

import json
import shlex

import click
from click.testing import CliRunner

from fedfs.cli import fedfs as cli
from fedfs.cli.exit_codes import EXIT_PROBLEM
from fedfs.errors import EXIT_WAITING
from fedfs.store import open_store
from support.command_lines import all_commands
from support.federation import Federation, reach

ELSEWHERE = {
    "init", "site join", "site run", "site audit", "site cases", "site scores", "export",
    "simulate", "demo",
}  # fmt: skip
"""Commands that need nnU-Net; tests of theirs read their JSON."""

INSTEAD = {
    "status": "fedfs status /mnt/share/organ",  # the study is not finished
    "bundle export": (  # north has it all already
        "fedfs bundle export /mnt/share/organ --for north -o to-north.fedfs --everything"
    ),
    "sync": "fedfs sync /mnt/share/organ /mnt/internal/organ --site north",  # there is no bucket
}
"""Command -> what is run instead of its example, which needs more than is there."""

STEPS = [  # in this order: who runs the example of which command; keys of the document
    ("coordinator", "status", "phase sites version"),
    ("coordinator", "log", "events hidden"),
    ("coordinator", "charter", "amendments charter members number sections study"),
    ("coordinator", "report", "facts"),
    ("coordinator", "privacy", "disclosures never readers site"),
    ("coordinator", "verify", "findings problems"),
    ("north", "doctor", "findings problems"),
    ("coordinator", "approve", "approved charter"),
    ("coordinator", "pause", "charter roster"),
    ("coordinator", "resume", "charter roster"),
    ("north", "site policy", "comparison file not_in_force values"),
    ("north", "site pause", "changed site status"),
    ("north", "site resume", "changed site status"),
    ("coordinator", "close-round", "charter closed_rounds"),
    ("coordinator", "aggregate", "done finished text worked"),
    ("coordinator", "bundle export", "n_objects paths"),
    ("north", "bundle show", "bytes header items"),
    ("north", "bundle import", "header n_new n_there"),
    ("coordinator", "sync", "done finished text worked"),
    ("coordinator", "key show", "keys"),
    ("north", "key export-public", "encryption_key public_key"),
    ("other", "key create", "encryption_key fingerprint public_key role"),
    ("north", "key rotate", "new_key site"),
    ("north", "site leave", "changed site status"),
    ("coordinator", "remove", "charter roster"),
]

CODES = {"doctor": EXIT_PROBLEM}  # nnU-Net has no folders here

COMMANDS = {
    " ".join(path[1:]): command
    for path, command in all_commands()
    if not isinstance(command, click.Group)
}


def test_every_command_has_json():
    for path, command in COMMANDS.items():
        assert any("--json" in option.opts for option in command.params), path
    others = "deploy ", "helper "  # test_deploy.py, roles/helper/test_run.py
    tried = {path for path in COMMANDS if path.startswith(others)}
    assert COMMANDS.keys() == tried | {path for _, path, _ in STEPS} | ELSEWHERE


def test_the_examples_work_and_print_one_document(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    store = open_store(str(tmp_path / "mnt/share/organ"), must_exist=False)
    federation = Federation(tmp_path / "hosts", store=store).start()
    reach(federation, 1)
    for site in federation.targets:
        federation.run_process(site)
    for host, path, keys in STEPS:
        line = INSTEAD.get(path, COMMANDS[path].example)
        words = shlex.split(line.replace(" /", f" {tmp_path}/"))[1:]
        monkeypatch.setenv("FEDFS_HOME", str(federation.home(host)))
        code = cli.main([*words, "--json"], standalone_mode=False)
        printed = capsys.readouterr().out
        assert (code or 0) == CODES.get(path, 0), f"{line}: {printed}"
        document = json.loads(printed)
        assert document.keys() >= set(keys.split()), line


def test_nothing_to_carry_is_a_document_too(tmp_path):
    store = open_store(str(tmp_path / "store"), must_exist=False)
    Federation(tmp_path / "hosts", store=store)
    words = ["bundle", "export", store.url, "--from", "north", "-o", str(tmp_path / "b"), "--json"]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == EXIT_WAITING
    assert json.loads(done.stdout) == {"n_objects": 0, "paths": []}
