"""Text and numbers of whoever can write to the store, or is on the roster: nobody stumbles."""

from __future__ import annotations

import json
import logging

import pytest
from click.testing import CliRunner

from fedfs.cli import fedfs as cli
from fedfs.errors import MalformedError, RejectedError
from fedfs.exchange.read import open_study
from fedfs.protocol import codec, layout, messages
from fedfs.protocol.messages import Charter, EvaluationMessage, JoinRequest, StatusMessage
from fedfs.roles.log_format import LogFormatter
from fedfs.roles.reader.report.data import collect
from fedfs.roles.reader.report.html import render
from fedfs.store import open_store
from fedfs.store.memory import MemoryStore
from fedfs.trust.signing import Envelope, SigningKey, study_id
from support.federation import Federation, forge
from support.forgery import sign_value

EVIL = ["\x1b[2J\x1b]0;owned\x07", "\ud800", "a\nb", "\x9b2J", "\u202e", "\x00"]
READERS = ("status", "log", "verify", "key show")


def join_of(study: str, *, site: str = "mallory", **changes) -> tuple[str, bytes]:
    """A join request of somebody who is on no roster."""
    key, signer = layout.join(site, 1), SigningKey.generate()
    request = JoinRequest(
        study=study, key=key, created_at="2026-01-31T12:00:00Z", site=site,
        public_key=signer.public, n_cases=3, file_ending=".nii.gz", versions={},
    )  # fmt: skip
    value = {**json.loads(messages.encode(request)), **changes}
    return key, sign_value(signer, JoinRequest, value)


@pytest.mark.parametrize("text", EVIL)
@pytest.mark.parametrize("where", ["value", "name", "unknown field"])
def test_a_join_of_evil_text_is_refused_in_plain_words(tmp_path, text, where, caplog):
    federation = Federation(tmp_path, rounds=1).start()
    change = {
        "value": {"file_ending": text},
        "name": {"versions": {text: "1"}},
        "unknown field": {text: 1},
    }[where]
    key, data = join_of(federation.charter.study, **change)
    forge(federation.store, key, data)
    federation.run()
    state = federation.observe().refresh(everything=True)
    assert "the forbidden character U+" in state.rejected[key]
    assert state.rejected[key].isprintable()
    assert all(record.getMessage().isprintable() for record in caplog.records)
    assert state.finished is not None


@pytest.fixture(scope="module")
def visited(tmp_path_factory):
    """A finished study in a folder, in which everybody who can write has left something."""
    folder = tmp_path_factory.mktemp("visited")
    store = open_store(str(folder / "store"), must_exist=False)
    federation = Federation(folder / "hosts", store=store, rounds=1).start()
    for number, text in enumerate([*EVIL, "[/]", "[bold]x[/bold"]):
        key, data = join_of(federation.charter.study, site=f"m{number}", versions={text: text})
        store.create(key, data)
    federation.run()
    return federation, str(folder / "store")


@pytest.mark.parametrize("command", READERS)
def test_readers_print_foreign_text_as_text(visited, command):
    _, store = visited
    name, *more = command.split()
    result = CliRunner().invoke(cli, [name, *more, store])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    assert all(c.isprintable() for c in result.output.replace("\n", ""))


def evaluation_of(federation: Federation, **changes) -> tuple[str, bytes]:
    """An evaluation that a site on the roster signs, with changes."""
    state = federation.observe().refresh(everything=True)
    message = state.evaluations["north", 1, "pseudo"]
    value = {**json.loads(messages.encode(message)), **changes}
    signer = federation.keyring("north").load("site-north")
    return message.key, sign_value(signer, EvaluationMessage, value)


@pytest.mark.parametrize(
    "changes",
    [
        {"mean_dice": 1e308},
        {"mean_dice": -0.1},
        {"loss": 1e308},
        {"n_cases": -1},
        {"n_cases": 10**18},
        {"seconds": 1e12},
        {"classes": {"organ": {"dice": 1e308}}},
        {"classes": {"organ": {"dice": 0.5, "tp": -1}}},
        {"classes": {"organ": {"dice": 0.5, "hd95_mm": 1e99}}},
        {"created_at": "yesterday"},
    ],
)
def test_a_number_that_no_site_can_have_is_refused(finished, changes):
    key, data = evaluation_of(finished, **changes)
    store = MemoryStore(clock=finished.clock)
    store.objects = dict(finished.store.objects)
    forge(store, finished.place.track.on_store(key), data)
    observer = open_study(store)
    state = observer.refresh(everything=True)
    assert key in state.rejected
    render(collect(state, observer.sizes), made_at="2026-01-31T12:00:00Z")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    federation = Federation(tmp_path_factory.mktemp("finished"), rounds=1).start()
    federation.run()
    return federation


def charter_of(federation: Federation, **changes) -> bytes:
    """A first charter whose writer knows the rules, and breaks them in what it names."""
    signer = SigningKey.generate()
    data = federation.store.get(layout.charter(1), max_bytes=1 << 20)
    value = {**json.loads(Envelope(data).payload), "coordinator_key": signer.public, **changes}
    value["study"] = study_id(value["name"], value["nonce"], signer.public)
    return sign_value(signer, Charter, value)


TRACK = {"name": "2d-0", "configuration": "2d", "fold": "0", "after": []}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": "a\ncoordinator key  0000 1111"}, "forbidden character"),
        ({"name": "../../share"}, "not the name of a study"),
        ({"name": "/etc"}, "not the name of a study"),
        ({"name": ""}, "not the name of a study"),
        ({"name": "A"}, "not the name of a study"),
        ({"tracks": [{**TRACK, "name": "../x"}]}, "not the name of a track"),
        ({"tracks": [{**TRACK, "after": ["../x"]}]}, "not the name of a track"),
        ({"tracks": [{**TRACK, "fold": "../0"}]}, "not the number of a fold"),
        ({"tracks": [{**TRACK, "configuration": "../2d"}]}, "without dots"),
        ({"roster": [{"site": "../x", "public_key": ""}]}, "not the name of a site"),
        ({"roster": [{"site": "x", "public_key": "", "from_versions": {"..": 1}}]}, "a track"),
    ],
)
def test_a_charter_whose_names_could_be_paths_or_lines_is_no_study(finished, changes, says):
    store = MemoryStore(clock=finished.clock)
    store.create(layout.charter(1), charter_of(finished, **changes))
    with pytest.raises(RejectedError, match=says):
        open_study(store)


def test_a_charter_with_other_names_is_one(finished):
    store = MemoryStore(clock=finished.clock)
    store.create(layout.charter(1), charter_of(finished, name="another-study"))
    assert open_study(store).state.charter.name == "another-study"


def test_a_site_that_joins_prints_nothing_of_such_a_study(finished, tmp_path, monkeypatch):
    store = open_store(str(tmp_path / "store"), must_exist=False)
    store.create(
        layout.charter(1), charter_of(finished, name="x\ncoordinator key  0000 1111 2222 3333")
    )
    monkeypatch.setenv("FEDFS_HOME", str(tmp_path / "home"))
    arguments = ["site", "join", str(tmp_path / "store"), "--site", "north", "-d", "1"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code != 0
    assert "0000 1111" not in result.output
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("site", ["../mallory", "Mallory", "a" * 33, ""])
def test_a_message_of_a_site_without_a_usable_name_is_refused(finished, site):
    _, data = join_of(finished.charter.study, site="mallory")
    value = {**json.loads(Envelope(data).payload), "site": site}
    with pytest.raises(MalformedError, match="the name of a site"):
        codec.from_json(
            JoinRequest, {k: v for k, v in value.items() if k not in ("type", "schema")}
        )


@pytest.mark.parametrize("field", ["sha256", "content_sha256"])
@pytest.mark.parametrize("value", ["../../../tmp/x", "0" * 63, "A" * 64, "0" * 64 + "\u200d"])
def test_a_hash_that_could_lead_out_of_the_cache_is_none(field, value):
    ref = {"key": "a", "sha256": "0" * 64, "size": 1, field: value}
    with pytest.raises(MalformedError, match="not a SHA-256"):
        codec.from_json(messages.PayloadRef, ref)


@pytest.mark.parametrize("field", ["waiting_for", "error", "unit"])
def test_a_status_of_a_site_is_shown_as_text(finished, field):
    key = layout.status("north", 99)
    message = StatusMessage(
        study=finished.place.track.study(finished.charter.study, key), key=key,
        created_at="2026-01-31T12:00:00Z", site="north", step="train", version=1, done=1, total=2,
        unit="x", eta_s=1.0, waiting_for="", error="",
    )  # fmt: skip
    value = {**json.loads(messages.encode(message)), field: "\x1b[2J"}
    signer = finished.keyring("north").load("site-north")
    store = MemoryStore(clock=finished.clock)
    store.objects = dict(finished.store.objects)
    forge(store, finished.place.track.on_store(key), sign_value(signer, StatusMessage, value))
    assert key in open_study(store).refresh(everything=True).rejected


def test_what_a_server_answers_reaches_no_log_raw():
    record = logging.LogRecord("x", logging.WARNING, "", 1, "said %s", ("\x1b[2J\rok\x9b",), None)
    text = LogFormatter().format(record)
    assert text.endswith(r"said \x1b[2J\rok\x9b")
