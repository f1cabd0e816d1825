"""Azure Blob Storage against the contract, on Azurite; and what is Azure's own."""

import os
import uuid

import pytest

pytest.register_assert_rewrite("served_contract", "store_contract")

from azure.storage.blob import ContainerClient  # noqa: E402  as below
from served_contract import (  # noqa: E402  rewritten only if imported afterwards
    SECRET,
    check_a_silent_server,
    check_doctor_finds_one_winner,
    failure,
    moved_over_a_bad_line,
    port_of,
)
from store_contract import KEY, RemoteContract, races  # noqa: E402  as above

from fedfs.errors import (  # noqa: E402  as above
    SetupError,
    StorePermissionError,
    StoreUnavailableError,
    UserError,
)
from fedfs.store import open_store  # noqa: E402  as above
from fedfs.store.remote import azure  # noqa: E402  as above
from fedfs.store.remote.store import FsspecStore  # noqa: E402  as above
from support.faulty_proxy import Faults, FaultyProxy  # noqa: E402  as above
from support.slow import SLOW  # noqa: E402  as above


@pytest.fixture
def place(azurite, monkeypatch):
    for name in list(os.environ):
        if name.startswith("AZURE_STORAGE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azurite.connection())
    return azurite


@pytest.fixture
def raw(place):
    """A container of its own, to go behind the store's back."""
    name = f"organ-{uuid.uuid4().hex}"
    with ContainerClient.from_connection_string(place.connection(), name) as client:
        client.create_container()
        yield client


@pytest.fixture
def url(raw):
    return f"az://{raw.container_name}/studies"


@pytest.fixture
def url_at(place, url, monkeypatch):
    def at(port):
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", place.connection(port=port))
        return url

    return at


def blobs(raw):
    found = {blob.name: raw.download_blob(blob.name).readall() for blob in raw.list_blobs()}
    return {name.removeprefix("studies/"): data for name, data in found.items()}


class TestOnAzurite(RemoteContract):
    @pytest.fixture
    def store(self, raw, url):
        self.raw = raw
        return FsspecStore(url)

    def put_raw(self, store, name, data):
        self.raw.upload_blob(f"studies/{name}", data)

    def raw_objects(self, store):
        return blobs(self.raw)

    def test_a_listing_goes_on_behind_its_first_page(self, store, monkeypatch):
        for number in range(5):
            store.create(f"a/{number}", b"")
        real = ContainerClient.walk_blobs
        monkeypatch.setattr(
            ContainerClient,
            "walk_blobs",
            lambda client, prefix: real(client, prefix, results_per_page=2),
        )
        assert [entry.key for entry in store.list("a/")] == [f"a/{n}" for n in range(5)]


def test_of_large_objects_one_whole_wins(raw, url, monkeypatch, tmp_path):
    monkeypatch.setattr(azure, "_BLOCK_BYTES", 1 << 16)
    stores = [FsspecStore(url) for _ in range(2)]

    class Large:
        def __init__(self, store):
            self.store = store

        def create(self, key, data):
            return self.store.create(key, data.rjust(2, b"0") * (3 << 15))

    for key, outcomes in races([Large(store) for store in stores], 100 if SLOW else 1):
        assert outcomes.count("won") == 1
        assert outcomes.count("lost") == len(outcomes) - 1
        assert blobs(raw)[key] == b"%02d" % outcomes.index("won") * (3 << 15)


def test_doctor_finds_that_one_writer_wins(raw, url):
    check_doctor_finds_one_winner(open_store(url))
    assert blobs(raw) == {}


def test_a_wrong_key_is_refused(place, url, monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", place.connection(key="U3VwM3I1ZWNyZXQ="))
    error = failure(url)
    assert isinstance(error, StorePermissionError)
    assert "refuses this account" in str(error)
    assert "U3VwM3I1ZWNyZXQ" not in f"{error.local_text} {error.hint}"


def test_variables_that_say_too_little_are_told(url, monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", SECRET)
    error = failure(url)
    assert isinstance(error, SetupError)
    assert SECRET not in f"{error} {error.hint}"
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING")
    assert "name no account" in str(failure(url))


@pytest.mark.parametrize("verb", ["create", "list", "get"])
def test_a_container_that_is_not_there_is_told(place, verb):
    act = {
        "create": lambda store: store.create(KEY, b"1"),
        "list": lambda store: list(store.list("")),
        "get": lambda store: store.get(KEY, max_bytes=1),
    }[verb]
    error = failure("az://nobody-made-this/x", act)
    assert isinstance(error, StoreUnavailableError)
    assert "container is not there" in str(error)


def test_a_url_without_a_container_is_refused(place):
    for bad in ("az://A/x", "az://me@organ/x", "az:///x"):
        assert isinstance(failure(bad), UserError)


def test_a_server_that_is_not_there_is_waited_for(place, url_at):
    with FaultyProxy(place.port, Faults(refused=1.0)) as proxy:
        assert isinstance(failure(url_at(port_of(proxy))), StoreUnavailableError)


def test_a_server_that_hangs_is_given_up(place, url_at, monkeypatch):
    monkeypatch.setattr(azure, "SILENCE_S", 1)
    check_a_silent_server(place.port, url_at)


def test_nothing_is_lost_on_a_line_that_breaks(place, raw, url_at, tmp_path, monkeypatch):
    monkeypatch.setattr(azure, "_BLOCK_BYTES", 1 << 20)
    moved = moved_over_a_bad_line(place.port, url_at, tmp_path, n_files=2, life_bytes=3 << 20)
    assert blobs(raw) == moved
