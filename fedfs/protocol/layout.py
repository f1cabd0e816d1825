"""Every key of the store, built and parsed here and nowhere else.

::

    federation/charter-0001.json
    sites/<site>/join-0001.json
    sites/<site>/fingerprint-0001.json
    sites/<site>/plan-0001.json                         of sites that plan for themselves
    sites/<site>/updates/00007/update-<sha256>.safetensors
    sites/<site>/updates/00007/manifest.json
    sites/<site>/updates/attendance-0001.json           the site pauses, leaves or comes back
    sites/<site>/evaluations/00007-pseudo.json          -full.json for nnU-Net's full validation,
                                                        -local.json for that of a model trained
                                                        on this site's data alone, -of-<site>.json
                                                        for that of another site's model
    sites/<site>/model/model-<sha256>.safetensors       of sites that let others score their model
    sites/<site>/model/manifest.json
    sites/<site>/failures/00007-0001.json
    sites/<site>/status/00000001.json
    aggregator/plan-0001.json
    aggregator/admissions/<site>.json                   of sites that came after the plan
    aggregator/models/00007/model-<sha256>.safetensors
    aggregator/models/00007/keyframe-<sha256>.safetensors   in full, where the model is a delta
    aggregator/models/00007/state-<sha256>.safetensors  of strategies that have a memory
    aggregator/models/00007/manifest.json
    aggregator/rounds/00007.json
    aggregator/status/00000001.json
    aggregator/reports/00007-00000123.html              for people; only the newest is kept
    aggregator/finished.json
    sites/<site>/cross-validation-0001.json             of studies of several tracks
    aggregator/choice-0001.json                         of these, in the end
    federation/pretrained-<sha256>.safetensors
    tracks/<track>/...                                  in a study of several tracks: each has its
                                                        own of all that is not :data:`SHARED`

Within a track, keys are the same as in a study without tracks: ``tracks/2d-0/aggregator/...`` on
the store is ``aggregator/...`` to whoever works on that track, and in the messages there, which
name the track beside the study (:class:`TrackPlace`). The functions below make and take such keys.

Rules for every key, checked on the way in and on the way out:
 * only ``a-z 0-9 . _ - /``: survives every file system, object store and shell;
 * relative, no empty part, no part that starts with a dot: no traversal, no hidden or temporary
   file;
 * at most 255 characters, parts at most 128: fits every store beneath a prefix.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from fedfs.errors import MalformedError, UserError

FEDERATION = "federation/"
AGGREGATOR = "aggregator/"
SITES = "sites/"
FINISHED = "aggregator/finished.json"
ADMISSIONS = "aggregator/admissions/"
ROUNDS = "aggregator/rounds/"
STATUSES = "aggregator/status/"
STATUS_KINDS = ("status", "aggregator-status")
"""Kinds of key that people read; neither a site nor the aggregator decides anything by them."""

TRACKS = "tracks/"

SHARED = frozenset(
    {"charter", "pretrained", "join", "fingerprint", "plan", "cross-validation", "choice"}
)
"""Kinds of key that a study has once, whatever its tracks; but in the mode ``asym`` each track has
a plan of its own."""

REPORTS = "aggregator/reports/"
"""Pages for people; no message and no payload, so that no reader of the protocol looks at them."""

_MAX_KEY, _MAX_PART = 255, 128
_PART = re.compile(r"[a-z0-9_-][a-z0-9._-]*")
_STUDY = re.compile(r"[a-z0-9][a-z0-9-]{0,63}-[0-9a-f]{32}")
_TRACK = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_SITE = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")

_SHA = r"(?P<sha256>[0-9a-f]{64})"
_OF_SITE = r"sites/(?P<site>[a-z0-9-]{1,32})/"
_PATTERNS: dict[str, re.Pattern[str]] = {
    kind: re.compile(pattern)
    for kind, pattern in {
        "charter": r"federation/charter-(?P<number>[0-9]{4})\.json",
        "pretrained": rf"federation/pretrained-{_SHA}\.safetensors",
        "join": _OF_SITE + r"join-(?P<number>[0-9]{4})\.json",
        "fingerprint": _OF_SITE + r"fingerprint-(?P<number>[0-9]{4})\.json",
        "site-plan": _OF_SITE + r"plan-(?P<number>[0-9]{4})\.json",
        "update": _OF_SITE + r"updates/(?P<version>[0-9]{5})/manifest\.json",
        "attendance": _OF_SITE + r"updates/attendance-(?P<number>[0-9]{4})\.json",
        "update-payload": _OF_SITE + rf"updates/(?P<version>[0-9]{{5}})/update-{_SHA}\.safetensors",
        "evaluation": _OF_SITE
        + r"evaluations/(?P<version>[0-9]{5})-"
        + r"(?P<variant>pseudo|full|local|of-[a-z0-9-]{1,32})\.json",
        "cross-validation": _OF_SITE + r"cross-validation-(?P<number>[0-9]{4})\.json",
        "choice": r"aggregator/choice-(?P<number>[0-9]{4})\.json",
        "site-model": _OF_SITE + r"model/manifest\.json",
        "site-model-payload": _OF_SITE + rf"model/model-{_SHA}\.safetensors",
        "failure": _OF_SITE + r"failures/(?P<version>[0-9]{5})-(?P<number>[0-9]{4})\.json",
        "status": _OF_SITE + r"status/(?P<number>[0-9]{8})\.json",
        "plan": r"aggregator/plan-(?P<number>[0-9]{4})\.json",
        "admission": r"aggregator/admissions/[a-z0-9-]{1,32}\.json",
        "model": r"aggregator/models/(?P<version>[0-9]{5})/manifest\.json",
        "model-payload": rf"aggregator/models/(?P<version>[0-9]{{5}})/model-{_SHA}\.safetensors",
        "keyframe-payload": r"aggregator/models/(?P<version>[0-9]{5})/"
        rf"keyframe-{_SHA}\.safetensors",
        "state-payload": rf"aggregator/models/(?P<version>[0-9]{{5}})/state-{_SHA}\.safetensors",
        "round": r"aggregator/rounds/(?P<version>[0-9]{5})\.json",
        "aggregator-status": r"aggregator/status/(?P<number>[0-9]{8})\.json",
        "finished": r"aggregator/finished\.json",
    }.items()
}


@dataclass(frozen=True)
class Key:
    """A parsed key: what it names, whose it is, and its numbers."""

    text: str
    kind: str
    site: str | None = None
    version: int | None = None
    number: int | None = None
    sha256: str | None = None
    variant: str | None = None

    @property
    def is_status(self) -> bool:
        """Whether people read it, and nobody decides anything by it."""
        return self.kind in STATUS_KINDS

    @property
    def is_payload(self) -> bool:
        """Whether the object holds tensors rather than a signed message."""
        return self.sha256 is not None


def check_key(text: str) -> str:
    """Return ``text`` if it obeys the rules for keys.

    Raises:
        MalformedError: saying which rule it breaks.
    """
    if len(text) > _MAX_KEY:
        raise MalformedError(
            f"has {len(text)} characters; at most {_MAX_KEY} are allowed", about="a key"
        )
    for part in text.split("/"):
        if len(part) > _MAX_PART or not _PART.fullmatch(part):
            raise MalformedError(
                f"has the part {part!r}; a part has 1 to {_MAX_PART} of a-z 0-9 . _ - and does not "
                "start with a dot",
                about=f"the key {text!r}",
            )
    return text


def parse(text: str) -> Key | None:
    """Parse a key; None for anything that this version of the protocol does not name."""
    for kind, pattern in _PATTERNS.items():
        match = pattern.fullmatch(text)
        if match:
            found = match.groupdict()
            version, number = found.get("version"), found.get("number")
            return Key(
                text,
                kind,
                site=found.get("site"),
                version=None if version is None else int(version),
                number=None if number is None else int(number),
                sha256=found.get("sha256"),
                variant=found.get("variant"),
            )
    return None


def track_of(text: str) -> tuple[str, str]:
    """Return the track that a key of the store belongs to, "" if none, and the key within it."""
    if not text.startswith(TRACKS):
        return "", text
    track, _, key = text.removeprefix(TRACKS).partition("/")
    return track, key


def parse_on_store(text: str) -> Key | None:
    """Parse a key as it is on the store; of a track's object, :attr:`Key.text` is within the track.

    None for anything that is not named, or does not belong into a track.
    """
    track, within = track_of(text)
    key = parse(within)
    if track and (key is None or not _TRACK.fullmatch(track) or key.kind in SHARED - {"plan"}):
        return None
    return key


@dataclass(frozen=True)
class TrackPlace:
    """Where the objects of a track are.

    Attributes:
        name: of the track; "" in a study without tracks, where all is as it is.
        own_plan: the plan is the track's own, and not the study's (mode ``asym``).
    """

    name: str = ""
    own_plan: bool = False

    @property
    def prefix(self) -> str:
        """What all keys on the store begin with that are the track's own."""
        return f"{TRACKS}{self.name}/" if self.name else ""

    def is_shared(self, key: str) -> bool:
        """Whether what lies under a key of this track is the whole study's."""
        parsed = parse(key)
        if not self.name or parsed is None:
            return not self.name
        return parsed.kind in SHARED and not (self.own_plan and parsed.kind == "plan")

    def on_store(self, key: str) -> str:
        """Return where on the store a key of this track is."""
        return key if self.is_shared(key) else f"{self.prefix}{key}"

    def study(self, study: str, key: str) -> str:
        """Return what a message under a key says that it belongs to: the study, or this track."""
        return study if self.is_shared(key) else f"{study}/{self.name}"


NO_TRACK = TrackPlace()


def may_hold_shared(prefix: str) -> bool:
    """Whether keys of kinds that tracks share may begin with a prefix: none lies deeper."""
    depth = 2 if prefix.startswith(SITES) else 1
    return prefix.count("/") <= depth


def check_track(name: str) -> str:
    """Return a track's name if it can be used in keys.

    Raises:
        MalformedError: it cannot.
    """
    if not _TRACK.fullmatch(name):
        raise MalformedError("is not usable", about=f"the track name {name[:80]!r}")
    return name


def check_site(name: str) -> str:
    """Return a site's name if it can be used in keys.

    Raises:
        UserError: with the rule it breaks.
    """
    if not _SITE.fullmatch(name):
        raise UserError(
            f"Site name {name!r} is not usable.",
            hint="use 1 to 32 of a-z, 0-9 and -, starting and ending with a letter or digit",
        )
    return name


def check_study(text: str) -> str:
    """Return the id of a study if it can name a folder of keys.

    Raises:
        MalformedError: it is none.
    """
    if not _STUDY.fullmatch(text):
        raise MalformedError("is not an id of a study", about=f"the name {text[:80]!r}")
    return text


def site_prefix(site: str) -> str:
    """Prefix of everything that ``site`` writes."""
    return f"{SITES}{site}/"


def charter(number: int) -> str:
    """Key of the charter's ``number``-th amendment, the first being 1."""
    return f"federation/charter-{number:04d}.json"


def pretrained(sha256: str) -> str:
    """Key of the pretrained weights that a charter names."""
    return f"federation/pretrained-{sha256}.safetensors"


def join(site: str, number: int) -> str:
    """Key of a site's ``number``-th join request."""
    return f"sites/{site}/join-{number:04d}.json"


def fingerprint(site: str, number: int = 1) -> str:
    """Key of a site's dataset fingerprint."""
    return f"sites/{site}/fingerprint-{number:04d}.json"


def site_plan(site: str, number: int = 1) -> str:
    """Key of what a site that plans for itself tells of its plan."""
    return f"sites/{site}/plan-{number:04d}.json"


def cross_validation(site: str) -> str:
    """Key of how a study's models score at a site."""
    return f"sites/{site}/cross-validation-0001.json"


def choice() -> str:
    """Key of the best model of a study of tracks."""
    return "aggregator/choice-0001.json"


def plan(number: int = 1) -> str:
    """Key of the federated plan."""
    return f"aggregator/plan-{number:04d}.json"


def update(site: str, version: int) -> str:
    """Key of the manifest of the update that ``site`` trained from ``version``."""
    return f"sites/{site}/updates/{version:05d}/manifest.json"


def attendance(site: str, number: int) -> str:
    """Key of a site's ``number``-th word on whether it takes part; beside what it is about."""
    return f"sites/{site}/updates/attendance-{number:04d}.json"


def admission(site: str) -> str:
    """Key of the aggregator's word that a site takes part though the plan was made without it."""
    return f"aggregator/admissions/{site}.json"


def update_payload(site: str, version: int, sha256: str) -> str:
    """Key of the tensors of the update that ``site`` trained from ``version``."""
    return f"sites/{site}/updates/{version:05d}/update-{sha256}.safetensors"


def updates(site: str, after: int = -1) -> tuple[str, str]:
    """Prefix of what ``site`` answered, and what sorts before all answers to later versions."""
    prefix = f"sites/{site}/updates/"
    return prefix, f"{prefix}{after:05d}/~" if after >= 0 else ""


def models(after: int = -1) -> tuple[str, str]:
    """Prefix of global models, and what sorts before all later ones."""
    prefix = f"{AGGREGATOR}models/"
    return prefix, f"{prefix}{after:05d}/~" if after >= 0 else ""


def evaluation(site: str, version: int, variant: str) -> str:
    """Key of a site's scores of ``version``; see :class:`EvaluationMessage` for the variants."""
    return f"sites/{site}/evaluations/{version:05d}-{variant}.json"


def evaluations(site: str) -> str:
    """Prefix of a site's scores."""
    return f"sites/{site}/evaluations/"


def models_of(site: str) -> str:
    """Prefix of the model that a site lets others score; all sites may read there."""
    return f"sites/{site}/model/"


def site_model(site: str) -> str:
    """Key of the manifest of the model that a site lets others score."""
    return f"sites/{site}/model/manifest.json"


def site_model_payload(site: str, sha256: str) -> str:
    """Key of its tensors."""
    return f"sites/{site}/model/model-{sha256}.safetensors"


def score_of(site: str) -> str:
    """Variant of a score of the model of another site."""
    return f"of-{site}"


def failure(site: str, version: int, number: int) -> str:
    """Key of a site's ``number``-th failure record at ``version``."""
    return f"sites/{site}/failures/{version:05d}-{number:04d}.json"


def status(site: str | None, number: int) -> str:
    """Key of the ``number``-th status of a site, or of the aggregator (None)."""
    owner = "aggregator" if site is None else f"sites/{site}"
    return f"{owner}/status/{number:08d}.json"


def model(version: int) -> str:
    """Key of the manifest of global model ``version``."""
    return f"aggregator/models/{version:05d}/manifest.json"


def model_payload(version: int, sha256: str) -> str:
    """Key of the tensors of global model ``version``."""
    return f"aggregator/models/{version:05d}/model-{sha256}.safetensors"


def keyframe_payload(version: int, sha256: str) -> str:
    """Key of the tensors in full of global model ``version``, which travels as a delta."""
    return f"aggregator/models/{version:05d}/keyframe-{sha256}.safetensors"


def state_payload(version: int, sha256: str) -> str:
    """Key of the strategy's memory that belongs to global model ``version``."""
    return f"aggregator/models/{version:05d}/state-{sha256}.safetensors"


def report(version: int, n_messages: int) -> str:
    """Key of the report of a version, made from so many messages."""
    return f"{REPORTS}{version:05d}-{n_messages:08d}.html"


def round_record(version: int) -> str:
    """Key of the record of how ``version`` was made."""
    return f"aggregator/rounds/{version:05d}.json"
