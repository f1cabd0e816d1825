"""Publishes a version: its files, then the round record that decides, then the manifest.

A crash between any two of them is completed by whoever comes next. The manifest follows from the
record, so that of two aggregators that decide differently both publish the same one.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from fedfs.aggregation.combine import Outputs, Written
from fedfs.exchange.global_weights import WeightFiles
from fedfs.exchange.memory import is_published_with
from fedfs.exchange.payloads import prune_cache
from fedfs.exchange.publish import Clock, Publisher
from fedfs.protocol import layout, messages
from fedfs.protocol.messages import Charter, Named, PayloadRef, RoundRecord
from fedfs.store.local_files import file_sha256
from fedfs.tensors.canonical import TensorFile, weights_sha256
from fedfs.trust.recipients import for_aggregator, for_readers


class Release:
    """Publishes versions of one study.

    Args:
        publisher: signs with the aggregator's key.
        weights: where the weights of the newest version are kept.
        cache: where its memory is kept, under its hash.
        timer: seconds that publishing takes, from any origin.
    """

    def __init__(
        self, publisher: Publisher, weights: WeightFiles, cache: Path, *, timer: Clock
    ) -> None:
        self._timer = timer
        self._publisher = publisher
        self._weights = weights
        self._cache = cache

    def publish(
        self,
        version: int,
        written: Written,
        outputs: Outputs,
        charter: Charter,
        *,
        seconds: dict[str, float],
        updates: tuple[messages.UsedUpdate, ...] = (),
        excluded: tuple[messages.Excluded, ...] = (),
        opened_at: str = "",
        participation: tuple[messages.Participation, ...] = (),
        left_out: tuple[messages.LeftOut, ...] = (),
        secure: messages.SecureRound | None = None,
        scores: messages.Totals = MappingProxyType({}),
        expected_s: Mapping[str, float] = MappingProxyType({}),
    ) -> str:
        """Publish a version whole; return a sentence for the log.

        Args:
            version: its number.
            written: what is known of its files.
            outputs: its files, which are moved into the caches.
            charter: the charter in force.
            seconds: time spent so far, by phase.
            updates: that went in; of version 0 there are none.
            excluded: that did not, and why.
            opened_at: when the version before was published; "" for version 0.
            participation: in the mode ``asym``, who took part in each shared tensor.
            left_out: sites without an update in it.
            secure: the sum that it is made from; None without secure sums.
            scores: totals of the version before; empty without secure scores.
            expected_s: site -> seconds within which its update was expected.

        Raises:
            ObjectExistsError: another aggregator was faster.
            StoreError: the store refuses.
        """
        began_s = self._timer()
        travels, keyframe, encoding = outputs.model, None, Named(name="fp32")
        readers = for_readers(charter)
        if written.has_delta:
            travels, encoding = outputs.delta, charter.model_encoding
            if version % charter.keyframe_every == 0 or version == charter.schedule.rounds:
                keyframe = self._upload(outputs.model, "keyframe", version, readers)
        model = self._upload(travels, "model", version, readers)
        memory, memory_sha256, ema = None, "", None
        if written.has_state:
            memory_sha256 = file_sha256(outputs.state)
            if is_published_with(version, charter, has_delta=written.has_delta):
                own = for_aggregator(charter)
                memory = self._upload(outputs.state, "state", version, own)
            outputs.state.replace(self._cache / f"{memory_sha256}.safetensors")
        if written.has_ema:
            ema = self._upload(outputs.ema, "ema", version, readers)
            outputs.ema.replace(self._cache / f"{ema.tensors_sha256}.safetensors")
        self._weights.keep(written.weights_sha256, outputs.model)
        spent = {**seconds, "publish": self._timer() - began_s}
        record = self._publisher.publish(
            RoundRecord(
                key=layout.round_record(version),
                version=version,
                updates=updates,
                excluded=excluded,
                opened_at=opened_at,
                participation=participation,
                left_out=left_out,
                secure=secure,
                scores=dict(scores),
                expected_s=dict(expected_s),
                policy=charter.policy,
                weighting=charter.weighting,
                strategy=charter.strategy,
                model=model,
                keyframe=keyframe,
                ema=ema,
                state=memory,
                state_sha256=memory_sha256,
                weights_sha256=written.weights_sha256,
                n_tensors=written.n_tensors,
                n_parameters=written.n_parameters,
                encoding=encoding.name,
                encoding_options=encoding.options,
                seconds={name: round(value, 4) for name, value in spent.items()},
            )
        )
        text = self.complete(record)
        self._weights.prune([record.weights_sha256])
        prune_cache(self._cache, [memory_sha256, ema.tensors_sha256 if ema else ""])
        return text

    def complete(self, record: RoundRecord) -> str:
        """Publish the manifest that a round record calls for; its bytes follow from the record."""
        self._publisher.publish_stamped(
            messages.ModelManifest(
                study=record.study,
                key=layout.model(record.version),
                created_at=record.created_at,
                version=record.version,
                payload=record.model,
                weights_sha256=record.weights_sha256,
                n_tensors=record.n_tensors,
                n_parameters=record.n_parameters,
                encoding=record.encoding,
                encoding_options=record.encoding_options,
                keyframe=record.keyframe,
                ema=record.ema,
            )
        )
        return f"published version {record.version}"

    def _upload(self, path: Path, kind: str, version: int, readers: Sequence[str]) -> PayloadRef:
        return self._publisher.payload(
            path,
            lambda sha256: layout.payload_of_version(kind, version, sha256),
            sealed_for=readers,
        )


def in_full(path: Path) -> Written:
    """Return what is known of a version whose weights are published as they are."""
    with TensorFile(path) as file:
        return Written(
            weights_sha256=weights_sha256(file),
            has_delta=False,
            has_state=False,
            has_ema=False,
            n_tensors=len(file.names),
            n_parameters=sum(math.prod(file.shape(name)) for name in file.names),
        )
