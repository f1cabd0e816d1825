"""Beginning of a study: its first charter, and the keys of its coordinator and aggregator.

Nobody else needs to be there at the time.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from fedfs.errors import FedfsError, ObjectExistsError, StudyError
from fedfs.exchange.gate import OTHER_ROLES
from fedfs.exchange.publish import Clock, Publisher
from fedfs.exchange.read import open_study
from fedfs.nnunet.plan import plans
from fedfs.protocol import layout
from fedfs.protocol.areas import NO_SITE
from fedfs.protocol.messages import (
    Charter,
    Continued,
    DatasetSpec,
    Named,
    NnUNetSpec,
    PayloadRef,
    TrainOnly,
    closed,
)
from fedfs.protocol.track_place import TrackPlace
from fedfs.roles.coordinator.evaluation import (
    TRACK,
    NamedModel,
    drafted,
    evaluating,
    publish_models,
)
from fedfs.roles.coordinator.options import StudyOptions
from fedfs.roles.coordinator.secure_rules import rules_of
from fedfs.roles.coordinator.trained_part import trained_part
from fedfs.store import StorePlace, open_store
from fedfs.store.base import Store
from fedfs.store.local_files import file_sha256
from fedfs.trust import sealing
from fedfs.trust.keyring import Keyring
from fedfs.trust.recipients import make_read_key
from fedfs.trust.signing import SigningKey, study_id


def init_study(
    store: Store,
    home: Path,
    options: StudyOptions,
    *,
    clock: Clock,
    versions: Mapping[str, str],
    pretrained: Path | None = None,
    continues: Continued | None = None,
    evaluates: Sequence[NamedModel] = (),
) -> Charter:
    """Write the charter of a new study; make the coordinator's and the aggregator's keys.

    Args:
        store: an empty place.
        home: this host's fedfs home.
        options: what the coordinator chose.
        clock: POSIX seconds.
        versions: software the study is set up with.
        pretrained: safetensors file of canonical tensors to start from.
        continues: the study whose last version these are, see
            :mod:`fedfs.roles.coordinator.continuing`.
        evaluates: models that the sites score, in a study that trains nothing.

    Raises:
        StudyError: the store holds a study already.
        UserError: the given weights do not have what is trained.
        StoreError: the store refuses; nothing is left behind.
    """
    _require_no_study(store)
    part = _part(options, pretrained, continues)
    coordinator, nonce = SigningKey.generate(), secrets.token_hex(16)
    study = study_id(options.name, nonce, coordinator.public)
    keyring = Keyring(home, study)
    keyring.create("coordinator", coordinator)
    try:
        aggregator = keyring.create("aggregator")
        holders = {
            role: keyring.create_identity(role).recipient for role in ("coordinator", "aggregator")
        }
        read_keys = (make_read_key(1, holders),) if options.encryption else ()
        readers = [pair.recipient for pair in read_keys]
        track = TrackPlace(TRACK if evaluates else options.tracks()[0].name)
        publisher = Publisher(store, coordinator, study, clock=clock, track=track, gate=OTHER_ROLES)
        payload = None
        if pretrained is not None:
            payload = publisher.payload(pretrained, layout.pretrained, sealed_for=readers)
        draft = replace(
            _charter(options, nonce, versions),
            coordinator_key=coordinator.public,
            aggregator_key=aggregator.public,
            coordinator_encryption_key=holders["coordinator"],
            aggregator_encryption_key=holders["aggregator"],
            read_keys=read_keys,
            pretrained=payload,
            train_only=part,
            continues=continues and _continued(continues, options, nonce, readers),
        )
        given = publish_models(evaluates, publisher, readers)
        charter = publisher.publish(evaluating(draft, given))
    except FedfsError as error:
        keyring.discard("aggregator")
        keyring.discard("coordinator")
        if isinstance(error, ObjectExistsError):
            raise StudyError(
                f"{store.url} holds a federation already.",
                hint="one store, one study: choose another folder or prefix",
            ) from error
        raise
    return charter


def draft_study(
    store: Store,
    options: StudyOptions,
    *,
    versions: Mapping[str, str],
    pretrained: Path | None = None,
    continues: Continued | None = None,
    evaluates: Sequence[NamedModel] = (),
) -> Charter:
    """Return the charter that :func:`init_study` would write, without keys and id; write nothing.

    Raises:
        StudyError: the store holds a study already.
        StoreError: the store cannot be read.
    """
    _require_no_study(store)
    payload = None
    if pretrained is not None:
        sha256, size = file_sha256(pretrained), pretrained.stat().st_size
        payload = PayloadRef(key=layout.pretrained(sha256), sha256=sha256, size=size)
    draft = replace(
        _charter(options, "", versions),
        pretrained=payload,
        train_only=_part(options, pretrained, continues),
        continues=continues,
    )
    return evaluating(draft, drafted(evaluates))


def _part(
    options: StudyOptions, pretrained: Path | None, continues: Continued | None
) -> TrainOnly | None:
    return trained_part(
        options.train_only,
        pretrained,
        is_continued=continues is not None,
        keeps_norm=bool(options.keep_local),
    )


def _require_no_study(store: Store) -> None:
    """Check that no study has begun at a place.

    Raises:
        StudyError: one has.
    """
    keys = [layout.parse(entry.key) for entry in store.list(layout.FEDERATION)]
    # A payload without a charter is what an interrupted start has left: it stands in nobody's way.
    if any(key is not None and not key.is_payload for key in keys):
        raise StudyError(
            f"{store.url} holds a federation already.",
            hint="one store, one study: choose another folder or prefix",
        )


def _continued(
    continues: Continued, options: StudyOptions, nonce: str, readers: Sequence[str]
) -> Continued:
    """Return what the charter says of the study before, with the plan's new names."""
    moved = plans.rename_plans(
        continues.plans, dataset_name=_dataset_name(options), plans_name=_plans_name(options, nonce)
    )
    if not readers:
        return replace(continues, plans=moved)
    seal = partial(sealing.seal, recipients=readers)
    return replace(continues, plans={}, sealed=closed({"plans": moved}, seal))


def _dataset_name(options: StudyOptions) -> str:
    camel = "".join(part.capitalize() for part in options.name.split("-"))
    return options.dataset_name or f"Dataset900_{camel}"


def _plans_name(options: StudyOptions, nonce: str) -> str:
    """Return one name everywhere, which no plan of a site's own can have."""
    return f"nnUNetPlans_{options.name}-{nonce[:6]}"


def _charter(options: StudyOptions, nonce: str, versions: Mapping[str, str]) -> Charter:
    """Return the first charter without keys, and what is encrypted by them."""
    dataset = options.dataset_json
    regions = dataset.get("regions_class_order")
    return Charter(
        key=layout.charter(1),
        coordinator_key="",
        aggregator_key="",
        pretrained=None,
        number=1,
        previous_sha256="",
        name=options.name,
        nonce=nonce,
        mode=options.mode,
        asym=options.asym(),
        keep_local=options.keep_local,
        keep_local_export=options.keep_local_export,
        average_last=options.average_last or 0,
        ema=options.ema or 0.0,
        dataset=DatasetSpec(
            name=_dataset_name(options),
            channel_names={str(k): str(v) for k, v in dataset["channel_names"].items()},
            labels=dict(dataset["labels"]),
            label_order=tuple(dataset["labels"]),
            regions_class_order=None if regions is None else tuple(int(i) for i in regions),
            file_ending=str(dataset["file_ending"]),
        ),
        nnunet=NnUNetSpec(
            planner=options.planner,
            plans_name=_plans_name(options, nonce),
            trainer=options.trainer,
            gpu_memory_target_gb=options.gpu_memory_target_gb,
            target_spacing=options.target_spacing,
            planner_options=dict(options.planner_options),
            versions=dict(versions),
        ),
        schedule=options.schedule(),
        policy=Named(name=options.policy, options=dict(options.policy_options)),
        weighting=Named(name=options.weighting),
        strategy=Named(name=options.strategy, options=dict(options.strategy_options)),
        encoding=Named(name=options.encoding, options=dict(options.encoding_options)),
        model_encoding=Named(
            name=options.model_encoding, options=dict(options.model_encoding_options)
        ),
        keyframe_every=options.keyframe_every,
        min_sites=options.min_sites,
        minimum_cases=options.minimum_cases,
        max_move_ratio=float(options.max_move_ratio or 0),
        fingerprint_digits=options.fingerprint_digits,
        fingerprint_quantiles=options.fingerprint_quantiles,
        encryption=options.encryption,
        ensemble=options.ensemble,
        secure_sums=rules_of(options),
        roster=(),
        tracks=options.tracks(),
    )


def study_at(place: StorePlace | str) -> str:
    """Return the id of the study at a place.

    Raises:
        StudyError: there is none.
    """
    return open_study(open_store(place), site=NO_SITE).state.charter.study
