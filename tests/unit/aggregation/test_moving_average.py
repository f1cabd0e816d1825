"""The exponential average of versions: its weights, its bits, and whole studies that keep one."""

from __future__ import annotations

import numpy as np
import pytest

from fedfs.aggregation.moving_average import moved, weight_of
from fedfs.errors import SealedError, UserError
from fedfs.exchange.payloads import fetch_payload
from fedfs.protocol import layout
from fedfs.roles.reader.audit import verify_study
from fedfs.roles.reader.finding import OK, PROBLEM
from fedfs.tensors.canonical import TensorFile
from support.federation import INITIAL, Federation, forge

DECAY = 0.8


def ema_of(federation: Federation, version: int) -> dict[str, np.ndarray]:
    """What is published as the average with a version."""
    key = federation.observe().state.models[version].ema.key
    path = federation.folder / "ema.safetensors"
    path.write_bytes(federation.place.objects[key].data)
    with TensorFile(path) as file:
        return dict(file)


def test_it_is_the_mean_with_weights_that_decay():
    rng = np.random.default_rng(1)
    values = [rng.normal(size=7).astype(np.float32) for _ in range(9)]
    average = values[0]
    for version, value in enumerate(values[1:], start=2):
        average = moved(average, value, weight_of(version, DECAY))
    shares = np.array([DECAY ** (9 - i) for i in range(1, 10)])
    expected = (shares[:, None] * np.array(values, dtype=np.float64)).sum(0) / shares.sum()
    np.testing.assert_allclose(average, expected, rtol=1e-6)
    assert average.dtype == np.float32


@pytest.mark.parametrize("options", [{}, {"model_encoding": "int8"}, {"strategy": "FedAdam"}])
def test_it_is_published_with_every_version_and_made_again(tmp_path, options):
    federation = Federation(tmp_path, ema=DECAY, rounds=4, **options).start()
    federation.run()
    assert federation.observe().state.models[0].ema is None
    average = federation.weights(1)
    for version in range(1, 5):
        value, weight = federation.weights(version), weight_of(version, DECAY)
        average = {name: moved(average[name], value[name], weight) for name in INITIAL}
        published = ema_of(federation, version)
        for name in INITIAL:
            np.testing.assert_array_equal(published[name], average[name])
    findings = list(verify_study(federation.observe()))
    assert {item.level for item in findings} == {OK}


def test_versions_do_not_depend_on_it(tmp_path):
    ends = []
    for name, options in (("with", {"ema": DECAY}), ("without", {})):
        federation = Federation(tmp_path / name, targets={"east": 1.0}, min_sites=1, **options)
        federation.start().run()
        ends.append([m.weights_sha256 for m in federation.observe().state.models.values()])
    assert ends[0] == ends[1]


def test_an_average_that_was_made_otherwise_is_found(tmp_path):
    """By an aggregator that signs what it likes: the bytes are those signed for."""
    federation = Federation(tmp_path, ema=DECAY).start()
    aggregator = federation.process("aggregator")
    publish = aggregator._release.publish

    def swap(version, written, outputs, charter, **given):
        if version == 2:
            outputs.ema.write_bytes(outputs.model.read_bytes())
        return publish(version, written, outputs, charter, **given)

    aggregator._release.publish = swap
    federation.run()
    problems = [item for item in verify_study(federation.observe()) if item.level == PROBLEM]
    assert [item.subject for item in problems] == ["version 2"]
    assert "the exponential average is another one" in problems[0].text


def test_a_manifest_cannot_name_another_average_than_the_record(tmp_path):
    federation = Federation(tmp_path, ema=DECAY).start()
    federation.run()
    state = federation.observe().state
    fields = {**vars(state.models[2]), "ema": state.models[1].ema}
    signer = federation.publisher("aggregator", "coordinator")
    forge(federation.place, layout.model(2), signer._key.sign(type(state.models[2])(**fields)))
    seen = federation.observe()
    assert "disagrees with the round record" in seen.state.rejected[layout.model(2)]


def test_readers_of_an_encrypted_study_can_read_it_and_not_the_memory(tmp_path):
    federation = Federation(
        tmp_path, ema=DECAY, encryption="age", strategy="FedAvgM",
        strategy_options={"server_momentum": 0.5},
    ).start()  # fmt: skip
    federation.run()
    state = federation.observe().state
    assert all((site, 3, "ema") in state.evaluations for site in federation.targets)
    site = federation.make_site("north")
    tensors, _ = site._networks.at_average(3, "ema", site._observer.state)
    kept = federation.averages["north", "ema"].kept
    np.testing.assert_array_equal(tensors["b.bias"], kept["b.bias"])
    record = state.rounds[3]
    assert record.ema.is_sealed
    with pytest.raises(SealedError):
        fetch_payload(
            federation.place, record.state, tmp_path, max_bytes=10**6, vault=site._observer.vault
        )


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.5, float("nan")])
def test_a_decay_that_cannot_be_is_refused(tmp_path, decay):
    with pytest.raises(UserError, match="is not between 0 and 1"):
        Federation(tmp_path, ema=decay)
