"""Commands of the helper say with ``--json`` what they say to people, and nothing else."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from fedfs.cli import fedfs as cli
from fedfs.protocol.messages import HelperJoin
from fedfs.store.folder import FolderStore
from fedfs.trust.signing import key_fingerprint
from support.federation import HELPER, Federation


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    (folder / "store").mkdir()
    federation = Federation(
        folder, store=FolderStore(folder / "store"), secure_sums=True, encryption="age"
    )
    federation.join()
    federation.approve()
    return federation


def printed(study: Federation, host: str, command: str, *options: str) -> dict[str, object]:
    """The one JSON object that a command prints on a host."""
    words = ["helper", command, str(study.folder / "store"), *options, "--json"]
    done = CliRunner(env={"FEDFS_HOME": str(study.home(host))}).invoke(cli, words)
    assert done.exit_code == 0, done.output
    found: dict[str, object] = json.loads(done.stdout)
    return found


def asked(study: Federation) -> HelperJoin:
    join = study.observe().state.helper_join
    assert join is not None
    return join


def test_join_approve_and_rotate_print_json(study):
    joined = printed(study, HELPER, "join")
    assert joined == {
        "study": study.charter.study,
        "helper_key": key_fingerprint(asked(study).public_key),
        "coordinator_key": key_fingerprint(study.charter.coordinator_key),
    }
    assert printed(study, HELPER, "join") == joined  # asking again changes nothing
    number = study.observe().state.charter.number
    approved = {"charter": number + 1, "approved": joined["helper_key"]}
    assert printed(study, "coordinator", "approve") == approved
    assert printed(study, "coordinator", "approve") == {"charter": number + 1, "approved": None}
    rotated = printed(study, HELPER, "rotate", "--yes")
    assert rotated == {"new_key": key_fingerprint(asked(study).public_key)}
    assert rotated["new_key"] != joined["helper_key"]
    assert printed(study, "coordinator", "approve") == {
        "charter": number + 2,
        "approved": rotated["new_key"],
    }
