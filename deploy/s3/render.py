"""Print the bucket policy of a study, made from the templates beside this file.

    python deploy/s3/render.py --bucket B --prefix P \
        --coordinator ARN --aggregator ARN --reader ARN --site NAME=ARN --site NAME=ARN

 * ``--lifecycle`` prints the rule that removes unfinished uploads instead.
 * ``--identity``, with exactly one role, prints what to attach to an IAM user or role instead of
   putting it on the bucket: the same without ``Principal``.

Needs Python and nothing else. Writes nothing but standard output.
"""
# ruff: noqa: INP001  a script, not part of a package

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"([a-z0-9_-][a-z0-9._-]*/)*")
_SITE = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")  # as in fedfs/protocol/layout.py
_ARN = re.compile(r"arn:aws[a-z-]*:iam::[a-zA-Z0-9_]*:(user|role|root)(/[\w+=,.@/-]+)?")
_MAX_BYTES = 20_480  # of a bucket policy, at AWS and at Ceph


def main(arguments: list[str] | None = None) -> int:
    """Print what the arguments ask for; return the exit code."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    prefix = chosen.prefix.strip("/") + "/" if chosen.prefix.strip("/") else ""
    common = {
        "BUCKET": _checked(parser, "bucket", _BUCKET, chosen.bucket),
        "PREFIX": _checked(parser, "prefix", _PREFIX, prefix),
    }
    if chosen.lifecycle:
        print(json.dumps(_filled("lifecycle", common), indent=1))  # noqa: T201  its purpose
        return 0
    roles = list(_roles(parser, chosen))
    if not roles:
        parser.error("name at least one of --site, --aggregator, --coordinator, --reader")
    if chosen.identity and (len(roles) > 1 or chosen.tls_only):
        parser.error("--identity is for exactly one role, and --tls-only for the bucket")
    statements = _merged(
        statement
        for template, values in roles
        for statement in _filled(template, common | values)["Statement"]
    )
    if chosen.tls_only:
        statements += _filled("tls-only", common)["Statement"]
    if chosen.identity:
        statements = [{k: v for k, v in s.items() if k != "Principal"} for s in statements]
    policy = {"Version": "2012-10-17", "Statement": statements}
    text = json.dumps(policy, indent=1)
    if len(text) > _MAX_BYTES:
        text = json.dumps(policy, separators=(",", ":"))
    if len(text) > _MAX_BYTES:
        parser.error(
            f"{len(text)} bytes, but a bucket policy may have {_MAX_BYTES}: "
            "use --identity, once for each site"
        )
    print(text)  # noqa: T201  its purpose
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Print the bucket policy of a fedfs study.")
    parser.add_argument("--bucket", required=True)
    parser.add_argument("--prefix", default="", help="what follows the bucket in the store's URL")
    parser.add_argument("--site", action="append", default=[], metavar="NAME=ARN")
    for role in ("aggregator", "coordinator", "reader"):
        parser.add_argument(f"--{role}", action="append", default=[], metavar="ARN")
    parser.add_argument("--tls-only", action="store_true", help="refuse what comes without TLS")
    parser.add_argument("--identity", action="store_true", help="for one user: no Principal")
    parser.add_argument("--lifecycle", action="store_true", help="print the lifecycle rule")
    return parser


def _roles(
    parser: argparse.ArgumentParser, chosen: argparse.Namespace
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the template and the values of each role."""
    for role in ("coordinator", "aggregator", "reader"):
        for arn in getattr(chosen, role):
            yield role, {"PRINCIPAL": _checked(parser, role, _ARN, arn)}
    seen: set[str] = set()
    for pair in chosen.site:
        name, _, arn = pair.partition("=")
        if name in seen:
            parser.error(f"site {name!r} is named twice")
        seen.add(name)
        yield (
            "site",
            {
                "SITE": _checked(parser, "site", _SITE, name),
                "PRINCIPAL": _checked(parser, "site", _ARN, arn),
            },
        )


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


def _checked(
    parser: argparse.ArgumentParser, what: str, pattern: re.Pattern[str], value: str
) -> str:
    """Return ``value``, or end with a message: it gets into a policy without quoting."""
    if not pattern.fullmatch(value):
        parser.error(f"--{what}: {value!r} is not of the form {pattern.pattern}")
    return value


def _filled(template: str, values: Mapping[str, str]) -> Any:
    """Return a template with its ``@PLACEHOLDERS@`` replaced."""
    text = (_HERE / f"{template}.json").read_text()
    return json.loads(re.sub(r"@([A-Z]+)@", lambda found: values[found.group(1)], text))


if __name__ == "__main__":
    sys.exit(main())
