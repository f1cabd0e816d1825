"""``fedfs key``: an aggregator moves to another host of an encrypted study."""

from __future__ import annotations

import json
import shutil

from click.testing import CliRunner

from fedfs.cli import fedfs as cli
from fedfs.store import open_store
from support.federation import Federation, reach, with_keys_of_charter


def test_the_aggregator_moves_as_the_documents_say(tmp_path):
    store = open_store(str(tmp_path / "store"), must_exist=False)
    federation = Federation(
        tmp_path / "hosts", store=store, encryption="age", rounds=2, strategy="FedAdam"
    ).start()
    reach(federation, 1)
    for site in federation.targets:
        federation.run_process(site)

    def run(host: str, *words: str) -> str:
        env = {"FEDFS_HOME": str(federation.home(host))}
        command = ["key", words[0], str(tmp_path / "store"), *words[1:]]
        done = CliRunner().invoke(cli, command, env=env)
        assert done.exit_code == 0, done.output
        return done.output

    former = federation.keyring("coordinator").folder / "aggregator.age"
    folder = federation.keyring("other").folder
    folder.mkdir(parents=True)
    shutil.copy(former, folder)
    made = dict(
        line.rsplit("  ", 1) for line in run("other", "create", "--aggregator").splitlines() if line
    )
    keys = {name.strip(): value.strip() for name, value in made.items()}
    assert keys["encryption key"] != federation.charter.aggregator_encryption_key
    words = ("--to", keys["public key"], "--encryption-key", keys["encryption key"])
    assert "aggregator.0.age" in run("coordinator", "rotate", "--aggregator", "--yes", *words)
    shown = json.loads(run("other", "show", "--json"))["keys"]
    assert [key["counts"] for key in shown] == ["from version 2 on"]
    federation.home("coordinator").rename(federation.home("retired"))
    federation.home("other").rename(federation.home("coordinator"))
    with_keys_of_charter(federation)
    federation.process("aggregator").check_memory()
    federation.run()
    assert len(federation.observe().state.rounds[2].updates) == len(federation.targets)


def test_an_encryption_key_alone_replaces_nothing(tmp_path):
    words = ["key", "rotate", str(tmp_path), "--aggregator", "--encryption-key", "age1x"]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 2
    assert "--encryption-key goes with --to" in done.output
