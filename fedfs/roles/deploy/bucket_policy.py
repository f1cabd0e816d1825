"""The policy of a study's bucket, made from the templates in ``deploy/s3``.

``deploy/s3/README.md`` has the table of who may do what, and how a server takes the policy.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fedfs.errors import UserError
from fedfs.protocol.values import check_site
from fedfs.roles.deploy.files import folder

MAX_BYTES = 20_480
"""Largest bucket policy, at AWS and at Ceph."""

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"([a-z0-9_-][a-z0-9._-]*/)*")
_ARN = re.compile(r"arn:aws[a-z-]*:iam::[a-zA-Z0-9_]*:(user|role|root)(/[\w+=,.@/-]+)?")


@dataclass(frozen=True)
class Grant:
    """A role in the study, given to a user of the S3 server.

    Attributes:
        role: ``coordinator``, ``aggregator``, ``reader``, ``helper`` or ``site``.
        arn: the user.
        site: name of the site, for that role.
    """

    role: str
    arn: str
    site: str = ""

    def __post_init__(self) -> None:
        if self.role == "site":
            check_site(self.site)
        whose = f"site {self.site}" if self.site else f"the {self.role}"
        _check(
            _ARN, self.arn, f"of {whose} is not an ARN", "such as arn:aws:iam:::user/fedfs-north"
        )


@dataclass(frozen=True)
class Place:
    """The part of a bucket that holds a study: ``s3://BUCKET/PREFIX``."""

    bucket: str
    prefix: str = ""

    def __post_init__(self) -> None:
        fault = "is not a name of a bucket"
        _check(_BUCKET, self.bucket, fault, "use 3 to 63 of a-z, 0-9, . and -")
        fault = "is not a prefix of keys"
        _check(_PREFIX, self._folder, fault, "use a-z, 0-9, ., _ and -, and / between folders")

    @property
    def _folder(self) -> str:
        prefix = self.prefix.strip("/")
        return f"{prefix}/" if prefix else ""

    def fill(self, template: str, **values: str) -> Any:
        """Return a template of ``deploy/s3`` with its ``@PLACEHOLDERS@`` replaced."""
        known = {"BUCKET": self.bucket, "PREFIX": self._folder, **values}
        text = (folder() / "s3" / f"{template}.json").read_text(encoding="utf-8")
        return json.loads(re.sub(r"@([A-Z]+)@", lambda found: known[found[1]], text))


def lifecycle_rule(place: Place) -> str:
    """Return the rule that removes unfinished uploads, as JSON."""
    return json.dumps(place.fill("lifecycle"), indent=1)


def bucket_policy(
    place: Place, grants: Sequence[Grant], *, tls_only: bool = False, identity: bool = False
) -> str:
    """Return the policy of a bucket as JSON.

    Args:
        place: bucket and prefix of the study.
        grants: who has which role.
        tls_only: also refuse requests without TLS.
        identity: leave out ``Principal``, for a policy that is attached to the one user granted.

    Raises:
        UserError: nobody is granted anything, a site is named twice, or the policy is too large.
    """
    _check_grants(grants, tls_only=tls_only, identity=identity)
    statements = _merged(
        statement
        for grant in grants
        for statement in place.fill(grant.role, PRINCIPAL=grant.arn, SITE=grant.site)["Statement"]
    )
    if tls_only:
        statements += place.fill("tls-only")["Statement"]
    if identity:
        statements = [{k: v for k, v in s.items() if k != "Principal"} for s in statements]
    policy = {"Version": "2012-10-17", "Statement": statements}
    text = json.dumps(policy, indent=1)
    if len(text) > MAX_BYTES:
        text = json.dumps(policy, separators=(",", ":"))
    if len(text) > MAX_BYTES:
        raise UserError(
            f"The policy has {len(text)} bytes, and a bucket policy may have {MAX_BYTES}.",
            hint="make one with --identity for each site, and attach it to the site's user (AWS)",
        )
    return text


def _check_grants(grants: Sequence[Grant], *, tls_only: bool, identity: bool) -> None:
    if not grants:
        raise UserError(
            "The policy grants nobody anything.",
            hint="give at least one of --sites, --aggregator, --coordinator and --reader",
        )
    if identity and (len(grants) > 1 or tls_only):
        raise UserError(
            "--identity is for exactly one role, and --tls-only is for the bucket.",
            hint="run it once for each user",
        )
    for site in _repeated(grant.site for grant in grants if grant.site):
        raise UserError(f"Site {site!r} is named twice.", hint="give each site one user")


def _repeated(names: Iterable[str]) -> Iterator[str]:
    return (name for name, n in Counter(names).items() if n > 1)


def _merged(statements: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Join statements that differ in the principal only, and number those of the same name."""
    joined: dict[str, dict[str, Any]] = {}
    names: Counter[str] = Counter()
    for statement in statements:
        rest = {k: v for k, v in statement.items() if k != "Principal"}
        before = joined.setdefault(json.dumps(rest), statement)
        if before is not statement:
            before["Principal"]["AWS"] += statement["Principal"]["AWS"]
    for statement in joined.values():
        name = statement["Sid"]
        names[name] += 1
        if names[name] > 1:
            statement["Sid"] = f"{name}{names[name]}"
    return list(joined.values())


def _check(pattern: re.Pattern[str], value: str, fault: str, hint: str) -> None:
    """Refuse what is not of a form: it gets into a policy without quoting."""
    if not pattern.fullmatch(value):
        raise UserError(f"{value!r} {fault}.", hint=hint)
