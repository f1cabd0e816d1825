"""Audit of a whole study from its files alone, for the auditor, years later.

Rules:
 * Nothing is believed that is not signed by a key that the charters lead to, from the first one on;
   whose hash is the study's id.
 * Every payload that is there is hashed and read: by fedfs's reader and by the safetensors library,
   which have to agree on names, types, shapes and every value. One that a message names and that is
   not there is a problem, unless it may have been pruned (``--keep-versions``).
 * Every version is made again from the updates that its record names, with the weights that the
   charter gives them, and compared bit by bit. Version 0 is the initial weights: where nnU-Net drew
   them from a seed, only their hash is checked.
 * The store is only read.
"""

import math
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from fedfs.errors import ObjectNotFoundError, RejectedError, SealedError, StudyError
from fedfs.exchange import versions
from fedfs.exchange.global_weights import WeightFiles
from fedfs.exchange.make_version import strategy_of
from fedfs.exchange.memory import MemoryFiles, make_again
from fedfs.exchange.observer import Observer
from fedfs.exchange.payloads import MAX_MODEL_BYTES, decrypt, fetch_payload, prune_cache
from fedfs.protocol import layout
from fedfs.protocol.messages import ADMITTED, PayloadRef, RoundRecord, UpdateManifest
from fedfs.protocol.state import StudyState
from fedfs.roles.reader.closing_audit import verify_members, verify_scores
from fedfs.roles.reader.expectation_audit import check_expectations
from fedfs.roles.reader.finding import NOTE, OK, PROBLEM, Finding
from fedfs.roles.reader.frozen_audit import verify_frozen
from fedfs.roles.reader.sum_audit import is_void, verify_request, verify_totals
from fedfs.store.base import Entry
from fedfs.store.local_files import file_sha256
from fedfs.tensors.safetensors_library import check_both_readers
from fedfs.trust.signing import key_fingerprint


class _Audit:
    """Checks of a track; the folder takes one model and the updates of one round."""

    def __init__(self, observer: Observer, folder: Path) -> None:
        self._observer = observer
        self._store = observer.store
        self._folder = folder
        self._weights = WeightFiles(observer.store, folder / "weights", observer.vault)
        self._memories = folder / "memories"
        self._memory = MemoryFiles(
            self._weights, self._memories, partial(self._fetch, self._memories)
        )

    @property
    def state(self) -> StudyState:
        """Accepted messages."""
        return self._observer.state

    def run(self, *, recompute: bool) -> Iterator[Finding]:
        """Yield findings as they are made."""
        if recompute:
            strategy_of(self.state.charter)  # one that is missing is missed now
        yield from self._messages()
        yield from self._chain()
        yield from self._payloads()
        yield from verify_frozen(self._observer, self._folder)
        for version in sorted(self.state.rounds):
            if version > 0 and recompute:
                yield self._version(self.state.rounds[version])
        if recompute:
            yield from verify_members(self._observer, self._folder)

    def _messages(self) -> Iterator[Finding]:
        self._observer.refresh(everything=True)  # one message may explain another
        state, charter = self.state, self.state.charter
        yield Finding("study", OK, charter.study)
        yield Finding("coordinator", OK, key_fingerprint(state.charters[1].coordinator_key))
        amendments = len(state.charters) - 1
        yield Finding("charter", OK, f"{amendments} amendments, each signed and chained by hash")
        yield Finding("signatures", OK, f"{len(state.digests)} messages are signed as they must be")
        for text, reason in sorted(state.rejected.items()):
            key = layout.parse(text)
            entry = charter.entry(key.site) if key is not None and key.site else None
            is_member = entry is not None and entry.state in ADMITTED
            level = PROBLEM if key is None or key.site is None or is_member else NOTE
            yield Finding(text, level, f"is not accepted: {reason}")

    def _chain(self) -> Iterator[Finding]:
        """Check that versions, records and the end of the study fit together."""
        state = self.state
        missing = sorted(set(range(state.newest + 1)) - set(state.models))
        for version in missing:
            yield Finding(layout.model(version), PROBLEM, "is not there")
        for version in sorted(set(state.rounds) - set(state.models)):
            yield Finding(layout.round_record(version), NOTE, "its version is not published yet")
        for record in state.rounds.values():
            yield from self._record(record)
        yield from verify_totals(state)
        if state.charter.evaluates:
            yield from verify_scores(self._observer)
            return
        if state.finished is not None:
            model = state.models.get(state.finished.version)
            if model is None or model.weights_sha256 != state.finished.weights_sha256:
                yield Finding(layout.FINISHED, PROBLEM, "ends the study with unknown weights")
        if not missing and state.models:
            yield Finding("versions", OK, f"0 to {state.newest}, each follows from its record")

    def _record(self, record: RoundRecord) -> Iterator[Finding]:
        state, key = self.state, layout.round_record(record.version)
        if len({used.site for used in record.updates}) < len(record.updates):
            yield Finding(key, PROBLEM, "uses two updates of one site")
            return
        for used in record.updates:
            update = state.updates.get((used.site, used.base_version))
            if update is None:
                if self._sees(used.site):
                    text = f"names an update of {used.site} that is not there"
                    yield Finding(key, PROBLEM, text)
                continue
            hashes = (state.digests[update.key], update.payload.sha256)
            if hashes != (used.manifest_sha256, used.payload_sha256):
                yield Finding(key, PROBLEM, f"names another update of {used.site} than there is")
        yield from check_expectations(record, state)
        closed = {charter.closed_round for charter in state.charters.values()}
        is_closed = record.version - 1 in closed or is_void(state, record)
        if not record.updates and record.version > 0 and not is_closed:
            yield Finding(key, PROBLEM, "uses no update, and no charter closes the round")
        if not record.updates or record.version == 0:
            return
        manifests = self._manifests(record)
        if manifests is None:
            return
        if state.charter.secure_sums is not None:
            yield from verify_request(state, record)
            return
        weights = versions.weigh(manifests, state.charter, record.version - 1)
        for update, used in zip(manifests, record.updates, strict=True):
            expected = weights[update.site]
            if not math.isclose(expected, used.weight, rel_tol=1e-12):
                text = f"gives {used.site} the weight {used.weight:.6g}, the charter {expected:.6g}"
                yield Finding(key, PROBLEM, text)

    def _payloads(self) -> Iterator[Finding]:
        """Read and hash every payload that is there, and report those that are missing."""
        named = self.state.payloads()
        n_read, n_sealed, n_bytes, present = 0, 0, 0, set()
        for entry in self._observer.payloads():
            key = layout.parse(entry.key)
            if key is None or key.sha256 is None:
                continue
            present.add(entry.key)
            n_read, n_bytes = n_read + 1, n_bytes + entry.size
            if entry.key not in named:
                yield Finding(entry.key, NOTE, "no message names it: left by a process that died")
            try:
                problem = self._problem_of(entry, key.sha256, named.get(entry.key))
            except SealedError:
                n_sealed += 1
            else:
                if problem:
                    yield Finding(entry.key, PROBLEM, problem)
        pruned = 0
        for text, (_, version) in sorted(named.items()):
            if text in present:
                continue
            if version < self.state.newest:
                pruned += 1
            else:
                yield Finding(text, PROBLEM, "is named and not there")
        text = f"{n_read} of {n_bytes / 1e6:.1f} MB have the bytes signed for"
        yield Finding("payloads", OK, text)
        if n_sealed:
            yield Finding("payloads", NOTE, f"{n_sealed} are encrypted for others, and only hashed")
        if pruned:
            yield Finding("payloads", NOTE, f"{pruned} of older versions have been deleted")

    def _problem_of(self, entry: Entry, sha256: str, named: tuple[PayloadRef, int] | None) -> str:
        """Return what is wrong with a payload, or ""; two readers look at each that is named.

        Raises:
            SealedError: the bytes are right, and the tensors are encrypted for others.
        """
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            # A copy of our own, as the library cannot read what somebody else may cut off.
            path = Path(folder) / "payload"
            try:
                self._store.download(entry.key, path, max_bytes=min(entry.size, MAX_MODEL_BYTES))
            except ObjectNotFoundError:
                return "it was listed, and is not there any more"
            if file_sha256(path) != sha256:
                return "its bytes are not those its name says"
            if named is None:
                return ""
            try:
                if named[0].is_sealed:
                    sealed, path = path, Path(folder) / "plain"
                    decrypt(sealed, path, named[0], self._observer.vault)
                check_both_readers(path)
            except SealedError:
                raise
            except RejectedError as error:
                return error.reason
        return ""

    def _version(self, record: RoundRecord) -> Finding:
        """Make a version again and compare."""
        subject = f"version {record.version}"
        manifests = self._manifests(record)
        if manifests is None:
            if not all(self._sees(used.site) for used in record.updates):
                return Finding(subject, NOTE, "cannot be made again here: updates are hidden")
            return Finding(subject, PROBLEM, "cannot be made again: an update is missing")
        names = ", ".join(f"{u.site} ({u.base_version})" for u in manifests)
        try:
            with tempfile.TemporaryDirectory(dir=self._folder) as folder:
                differs = self._differs(record, Path(folder))
        except ObjectNotFoundError as error:
            text = f"cannot be made again, as old payloads are gone: {error}"
            return Finding(subject, NOTE, text)
        except SealedError:
            return Finding(subject, NOTE, "cannot be made again here: this host cannot decrypt it")
        except (RejectedError, StudyError) as error:
            return Finding(subject, PROBLEM, f"cannot be made again from {names}: {error}")
        if differs:
            return Finding(subject, PROBLEM, f"made again from {names}, {differs}")
        return Finding(subject, OK, f"made again from {names}: bit by bit the same")

    def _differs(self, record: RoundRecord, folder: Path) -> str:
        """Return how a version made again differs from the published one; "" if it does not."""
        before = self.state.rounds[record.version - 1]
        written, outputs = make_again(
            self.state,
            record,
            self._weights,
            folder,
            fetch=partial(self._fetch, folder),
            memory=self._memory.of(self.state, before.version),
            ema=self._fetch(folder, before.ema) if before.ema else None,
        )
        if written.weights_sha256 != record.weights_sha256:
            return "it has other weights"
        travels = outputs.delta if written.has_delta else outputs.model
        if file_sha256(travels) != record.model.tensors_sha256:
            return "its tensors are written otherwise"
        ema_sha256 = record.ema.tensors_sha256 if record.ema else ""
        for sha256, path, has_one, what in (
            (record.memory_sha256, outputs.state, written.has_state, "the strategy's memory"),
            (ema_sha256, outputs.ema, written.has_ema, "the exponential average"),
        ):
            if sha256 != (file_sha256(path) if has_one else ""):
                return f"{what} is another one"
        self._weights.keep(written.weights_sha256, outputs.model)
        self._weights.prune([written.weights_sha256])
        if written.has_state:
            self._memory.keep(record.memory_sha256, outputs.state)
        prune_cache(self._memories, [record.memory_sha256])
        return ""

    def _sees(self, site: str) -> bool:
        return self._observer.site in (None, site)

    def _manifests(self, record: RoundRecord) -> list[UpdateManifest] | None:
        keys = [(used.site, used.base_version) for used in record.updates]
        if not all(key in self.state.updates for key in keys):
            return None
        return [self.state.updates[key] for key in keys]

    def _fetch(self, folder: Path, ref: PayloadRef, max_bytes: int = MAX_MODEL_BYTES) -> Path:
        vault = self._observer.vault
        return fetch_payload(self._store, ref, folder, max_bytes=max_bytes, vault=vault)


def verify_study(observer: Observer, *, recompute: bool = True) -> Iterator[Finding]:
    """Yield the findings of an audit of a track as they are made.

    Args:
        observer: has looked at all that the track shows.
        recompute: also make every version again.

    Raises:
        StoreError: the store cannot be read.
        SetupError: there is no room for scratch files; this host does not have the strategy.
    """
    with tempfile.TemporaryDirectory(prefix="fedfs-verify-") as folder:
        yield from _Audit(observer, Path(folder)).run(recompute=recompute)
