"""Every key of a track: each form stands once, in :data:`FORMS`, and both makes and parses keys.

:mod:`fedfs.protocol.track_place` says where on the store a key of a track is: what a study has
once lies under the key itself, all else beneath ``tracks/<track>/``.

Rules for every key, checked on the way in and on the way out:
 * only ``a-z 0-9 . _ - /``: survives every file system, object store and shell;
 * relative, no empty part, no part that starts with a dot: no traversal, no hidden or temporary
   file;
 * at most 255 characters, parts at most 128: fits every store beneath a prefix.
"""

import re
import string
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from fedfs.errors import MalformedError
from fedfs.protocol import values
from fedfs.protocol.values import HELPER_SITE

FEDERATION = "federation/"
AGGREGATOR = "aggregator/"
SITES = "sites/"
HELPER = "helper/"
SUM_REQUESTS = "aggregator/sums/"
MASK_SUMS = "helper/sums/"
ADMISSIONS = "aggregator/admissions/"
ROUNDS = "aggregator/rounds/"
STATUSES = "aggregator/status/"
REPORTS = "aggregator/reports/"
"""Pages for people; no message and no payload, so that no reader of the protocol looks at them."""

STATUS_KINDS = ("status", "aggregator-status", "helper-status")
"""Kinds of key that only people read: no site and no aggregator decides anything by them."""

FORMS = {
    "charter": "federation/charter-{number:04d}.json",
    "pretrained": "federation/pretrained-{sha256}.safetensors",
    "given-model": "federation/model-{sha256}.safetensors",
    "join": "sites/{site}/join-{number:04d}.json",
    "fingerprint": "sites/{site}/fingerprint-{number:04d}.json",
    "site-plan": "sites/{site}/plan-{number:04d}.json",
    "update": "sites/{site}/updates/{version:05d}/manifest.json",
    "update-payload": "sites/{site}/updates/{version:05d}/update-{sha256}.safetensors",
    "attendance": "sites/{site}/updates/attendance-{number:04d}.json",
    "evaluation": "sites/{site}/evaluations/{version:05d}-{variant}.json",
    "cross-validation": "sites/{site}/cross-validation-{number:04d}.json",
    "site-model": "sites/{site}/model/manifest.json",
    "site-model-payload": "sites/{site}/model/model-{sha256}.safetensors",
    "failure": "sites/{site}/failures/{version:05d}-{number:04d}.json",
    "status": "sites/{site}/status/{number:08d}.json",
    "plan": "aggregator/plan-{number:04d}.json",
    "admission": "aggregator/admissions/{admitted}.json",
    "model": "aggregator/models/{version:05d}/manifest.json",
    "model-payload": "aggregator/models/{version:05d}/model-{sha256}.safetensors",
    "keyframe-payload": "aggregator/models/{version:05d}/keyframe-{sha256}.safetensors",
    "ema-payload": "aggregator/models/{version:05d}/ema-{sha256}.safetensors",
    "state-payload": "aggregator/models/{version:05d}/state-{sha256}.safetensors",
    "round": "aggregator/rounds/{version:05d}.json",
    "aggregator-status": "aggregator/status/{number:08d}.json",
    "sum-request": "aggregator/sums/{version:05d}.json",
    "choice": "aggregator/choice-{number:04d}.json",
    "finished": "aggregator/finished.json",
    "helper-join": "helper/join-{number:04d}.json",
    "mask-sum": "helper/sums/{version:05d}/manifest.json",
    "mask-sum-payload": "helper/sums/{version:05d}/sum-{sha256}.safetensors",
    "helper-status": "helper/status/{number:08d}.json",
}
"""Kind of key -> its form, as :meth:`str.format` takes it."""

FINISHED = FORMS["finished"]

_MAX_KEY, _MAX_PART = 255, 128
_PART = re.compile(r"[a-z0-9_-][a-z0-9._-]*")
_FIELDS = {
    "site": values.SITE.pattern,
    "admitted": values.SITE.pattern,
    "sha256": "[0-9a-f]{64}",
    "variant": values.VARIANT.pattern,
}


def _pattern(form: str) -> re.Pattern[str]:
    """Return what matches the keys of a form, with a group for each of its fields."""

    def parts() -> Iterator[str]:
        for literal, name, width, _ in string.Formatter().parse(form):
            yield re.escape(literal)
            if name is not None:
                yield f"(?P<{name}>{f'[0-9]{{{int(width[:-1])}}}' if width else _FIELDS[name]})"

    return re.compile("".join(parts()))


_PATTERNS = {kind: _pattern(form) for kind, form in FORMS.items()}


@dataclass(frozen=True)
class Key:
    """A parsed key: the kind of object, the site that writes it, and its numbers."""

    text: str
    kind: str
    site: str | None = None
    version: int | None = None
    number: int | None = None
    sha256: str | None = None
    variant: str | None = None

    @property
    def is_status(self) -> bool:
        """Only people read the object under it."""
        return self.kind in STATUS_KINDS

    @property
    def writer(self) -> str:
        """The site that writes it, or who stands in place of one; "" for the aggregator."""
        return self.site or (HELPER_SITE if self.text.startswith(HELPER) else "")

    @property
    def is_payload(self) -> bool:
        """The object holds tensors rather than a signed message."""
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


@lru_cache(maxsize=1 << 14)  # every look parses what it lists
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


def site_prefix(site: str) -> str:
    """Prefix of everything that ``site`` writes, or the helper."""
    return HELPER if site == HELPER_SITE else f"{SITES}{site}/"


def charter(number: int) -> str:
    """Key of the charter's ``number``-th amendment, the first being 1."""
    return FORMS["charter"].format(number=number)


def pretrained(sha256: str) -> str:
    """Key of the pretrained weights that a charter names."""
    return FORMS["pretrained"].format(sha256=sha256)


def given_model(sha256: str) -> str:
    """Key of a network of a model that a charter gives the sites to score."""
    return FORMS["given-model"].format(sha256=sha256)


def join(site: str, number: int) -> str:
    """Key of a site's ``number``-th join request, or of the helper's."""
    kind = "helper-join" if site == HELPER_SITE else "join"
    return FORMS[kind].format(site=site, number=number)


def fingerprint(site: str, number: int = 1) -> str:
    """Key of a site's dataset fingerprint."""
    return FORMS["fingerprint"].format(site=site, number=number)


def site_plan(site: str, number: int = 1) -> str:
    """Key of the plan of a site that plans for itself."""
    return FORMS["site-plan"].format(site=site, number=number)


def cross_validation(site: str) -> str:
    """Key of the scores that a study's models have at a site."""
    return FORMS["cross-validation"].format(site=site, number=1)


def choice() -> str:
    """Key of the choice of the best configuration."""
    return FORMS["choice"].format(number=1)


def plan(number: int = 1) -> str:
    """Key of the federated plan."""
    return FORMS["plan"].format(number=number)


def update(site: str, version: int) -> str:
    """Key of the manifest of the update that ``site`` trained from ``version``."""
    return FORMS["update"].format(site=site, version=version)


def attendance(site: str, number: int) -> str:
    """Key of a site's ``number``-th attendance, beside the updates that it is about."""
    return FORMS["attendance"].format(site=site, number=number)


def admission(site: str) -> str:
    """Key of the admission of a site that came after the plan."""
    return FORMS["admission"].format(admitted=site)


def update_payload(site: str, version: int, sha256: str) -> str:
    """Key of the tensors of the update that ``site`` trained from ``version``."""
    return FORMS["update-payload"].format(site=site, version=version, sha256=sha256)


def updates(site: str, after: int = -1) -> tuple[str, str]:
    """Prefix of the updates of ``site``, and a key before all that answer later versions."""
    prefix = f"sites/{site}/updates/"
    return prefix, f"{prefix}{after:05d}/~" if after >= 0 else ""


def models(after: int = -1) -> tuple[str, str]:
    """Prefix of global models, and a key before all later ones."""
    prefix = f"{AGGREGATOR}models/"
    return prefix, f"{prefix}{after:05d}/~" if after >= 0 else ""


def evaluation(site: str, version: int, variant: str) -> str:
    """Key of a site's scores of ``version``; see :class:`EvaluationMessage` for the variants."""
    return FORMS["evaluation"].format(site=site, version=version, variant=variant)


def evaluations(site: str) -> str:
    """Prefix of a site's scores."""
    return f"sites/{site}/evaluations/"


def models_of(site: str) -> str:
    """Prefix of the model that a site lets others score; all sites may read there."""
    return f"sites/{site}/model/"


def site_model(site: str) -> str:
    """Key of the manifest of the model that a site lets others score."""
    return FORMS["site-model"].format(site=site)


def site_model_payload(site: str, sha256: str) -> str:
    """Key of the tensors of the model that a site lets others score."""
    return FORMS["site-model-payload"].format(site=site, sha256=sha256)


def score_of(site: str) -> str:
    """Variant of a score of the model of another site."""
    return f"of-{site}"


def failure(site: str, version: int, number: int) -> str:
    """Key of a site's ``number``-th failure record at ``version``."""
    return FORMS["failure"].format(site=site, version=version, number=number)


def status(site: str | None, number: int) -> str:
    """Key of the ``number``-th status of a site, of the helper, or of the aggregator (None)."""
    kinds = {None: "aggregator-status", HELPER_SITE: "helper-status"}
    return FORMS[kinds.get(site, "status")].format(site=site, number=number)


def model(version: int) -> str:
    """Key of the manifest of global model ``version``."""
    return FORMS["model"].format(version=version)


def model_payload(version: int, sha256: str) -> str:
    """Key of the tensors of global model ``version``."""
    return payload_of_version("model", version, sha256)


def payload_of_version(kind: str, version: int, sha256: str) -> str:
    """Key of a payload of ``version``, such as its ``model``, ``state`` or ``mask-sum``."""
    return FORMS[f"{kind}-payload"].format(version=version, sha256=sha256)


def sum_request(version: int) -> str:
    """Key of the request for the sum that ``version`` is made from."""
    return FORMS["sum-request"].format(version=version)


def mask_sum(version: int) -> str:
    """Key of the helper's answer to the request for ``version``."""
    return FORMS["mask-sum"].format(version=version)


def report(version: int, n_messages: int) -> str:
    """Key of the report of a version, made from so many messages."""
    return f"{REPORTS}{version:05d}-{n_messages:08d}.html"


def round_record(version: int) -> str:
    """Key of the record of how ``version`` was made."""
    return FORMS["round"].format(version=version)
