"""A whole study is read by other people's code: securesystemslib, the safetensors library, age.

Nothing of fedfs takes part in verifying, decrypting or opening what lies on the store.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess

import numpy as np
import pytest
import safetensors.numpy
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

from support.federation import Federation

SMALL = {"a.weight": (2, 3), "b.bias": (4,)}
LARGE = {**SMALL, "c.weight": (3, 3)}
STUDIES = {
    "one plan": {},
    "networks of their own": {
        "mode": "asym",
        "cross_evaluation": True,
        "networks": {"east": SMALL, "north": LARGE, "south": LARGE},
    },
    "small updates": {"encoding": "int8", "model_encoding": "fp16", "strategy": "FedAdam"},
}
PAYLOAD = ".safetensors"


@pytest.fixture(scope="module", params=STUDIES)
def study(request, tmp_path_factory):
    return finished(tmp_path_factory.mktemp("open"), **STUDIES[request.param])


@pytest.fixture(scope="module", params=STUDIES)
def encrypted(request, tmp_path_factory):
    if shutil.which("age") is None:
        pytest.skip("the command age is not installed: apt-get install age")
    folder = tmp_path_factory.mktemp("encrypted")
    return finished(folder, encryption="age", **STUDIES[request.param])


def finished(folder, **options):
    federation = Federation(folder, **options).start()
    federation.run()
    return federation


def objects(federation):
    return {key: found.data for key, found in federation.store.objects.items()}


def envelopes(federation):
    return {k: json.loads(data) for k, data in objects(federation).items() if PAYLOAD not in k}


def payloads(federation):
    return {key: data for key, data in objects(federation).items() if PAYLOAD in key}


def keys(federation):
    """Key id -> public key, of everybody in the newest charter."""
    charter = federation.observe().state.charter
    public = [charter.coordinator_key, charter.aggregator_key]
    public += [entry.public_key for entry in charter.roster]
    raw = [base64.b64decode(text) for text in public]
    return {hashlib.sha256(one).hexdigest(): one.hex() for one in raw}


def test_securesystemslib_verifies_every_envelope(study):
    known = {
        name: SSlibKey(name, "ed25519", "ed25519", {"public": public})
        for name, public in keys(study).items()
    }
    found = envelopes(study)
    assert len(found) > 20
    for key, content in found.items():
        (signature,) = content["signatures"]
        signer = known[signature["keyid"]]
        envelope = Envelope.from_dict(content)
        assert envelope.verify([signer], 1) == {signer.keyid: signer}, key
        assert envelope.payload_type.startswith("application/vnd.fedfs.")
        json.loads(envelope.payload)
        envelope.payload = envelope.payload.replace(b"}", b" }", 1)
        with pytest.raises(VerificationError):
            envelope.verify([signer], 1)


def test_the_safetensors_library_opens_every_payload(study):
    found = payloads(study)
    assert sum("/updates/" in key for key in found) == 9
    for key, data in found.items():
        assert hashlib.sha256(data).hexdigest() in key
        check_tensors(key, data)


def check_tensors(key, data):
    tensors = safetensors.numpy.load(data)
    assert tensors, key
    for value in tensors.values():
        assert np.isfinite(value.astype(np.float64)).all()


def age(data, identities):
    options = [word for path in identities for word in ("-i", str(path))]
    done = subprocess.run(
        ["age", "--decrypt", *options], input=data, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def test_age_opens_every_payload_and_what_is_hidden_in_messages(encrypted, tmp_path):
    """With the files that fedfs keeps for coordinator and aggregator, and what these open."""
    own = sorted(encrypted.home("coordinator").rglob("*.age"))
    own += sorted(
        path for site in encrypted.targets for path in encrypted.home(site).rglob("*.age")
    )
    messages = [
        (key, json.loads(base64.b64decode(content["payload"])))
        for key, content in envelopes(encrypted).items()
    ]
    readers = {}
    for _, message in messages:
        for pair in message.get("read_keys", ()):
            for holder, sealed in pair["sealed_for"].items():
                path = tmp_path / f"{pair['number']}-{holder}.age"
                path.write_bytes(age(base64.b64decode(sealed), own))
                readers[pair["number"], holder] = path
    assert {holder for _, holder in readers} == {"aggregator", "coordinator"} | {
        f"site-{site}" for site in encrypted.targets
    }
    one_of_each = {number: path for (number, _), path in readers.items()}
    identities = [*own, *one_of_each.values()]
    found = payloads(encrypted)
    assert sum("/updates/" in key for key in found) == 9
    for key, data in found.items():
        check_tensors(key, age(data, identities))
    hidden = [message["sealed"] for _, message in messages if message.get("sealed")]
    assert len(hidden) >= 3
    for sealed in hidden:
        assert json.loads(age(base64.b64decode(sealed), identities))
