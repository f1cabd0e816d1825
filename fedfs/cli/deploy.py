"""Commands that print the files of ``deploy/`` and the policy of a bucket."""

import os
from collections.abc import Mapping
from pathlib import Path

import click

from fedfs.cli.command import HOST, OPTIONS, OUTPUT, STORAGE, STUDY, argument, group, option
from fedfs.cli.options import FOLDER, default_option, json_option
from fedfs.cli.terminal import show_json, show_table
from fedfs.errors import UserError
from fedfs.roles.deploy.files import (
    KINDS,
    USER,
    HostValues,
    Kind,
    files_of,
    folder,
    installed_program,
    names_of,
    write_files,
)

_POLICY = "s3-policy"
_POLICY_PURPOSE = "the policy of a study's bucket"

_output = option(
    "-o", "--output", metavar="DIR", type=FOLDER, section=OUTPUT, help="Write them into a folder."
)


@group(example="fedfs deploy print systemd -o units")
def deploy() -> None:
    """Print files that start fedfs on a host."""


@deploy.command("list", example="fedfs deploy list")
@json_option
def list_(*, as_json: bool) -> None:
    """List the files of each kind."""
    kinds = [(kind.name, kind.purpose, names_of(kind)) for kind in KINDS.values()]
    kinds.append((_POLICY, _POLICY_PURPOSE, ["policy.json", "lifecycle.json", "make_bucket.py"]))
    if as_json:
        show_json([{"kind": k, "purpose": p, "files": f} for k, p, f in kinds])
        return
    rows = [(kind, purpose, name) for kind, purpose, names in kinds for name in names]
    shown = [
        ("", "", name) if i and rows[i - 1][0] == kind else (kind, purpose, name)
        for i, (kind, purpose, name) in enumerate(rows)
    ]
    show_table(("kind", "purpose", "file"), shown)


@deploy.group("print", example="fedfs deploy print systemd fedfs-site@.service")
def print_() -> None:
    """Print the files of one kind.

    Values that this shell has in FEDFS_STORE, FEDFS_HOME, nnUNet_raw and other variables are filled
    in.
    """


def _add_command(kind: Kind) -> None:
    """Give ``fedfs deploy print`` the command of a kind."""

    def complete(*_: object) -> list[str]:
        return names_of(kind)

    @print_.command(
        kind.name,
        help=f"Print {kind.purpose}.",
        example=f"fedfs deploy print {kind.name} -o {kind.name}",
    )
    @argument(
        "names",
        metavar="[FILE]...",
        nargs=-1,
        section=OPTIONS,
        shell_complete=complete,
        help="Files of this kind; default: all.",
    )
    @option("--site", metavar="NAME", section=HOST, help="The site that runs here.")
    @default_option("--user", default=USER, section=HOST, help="The account that runs fedfs.")
    @_output
    @json_option
    def print_kind(
        *, names: tuple[str, ...], site: str | None, user: str, output: Path | None, as_json: bool
    ) -> None:
        texts = files_of(kind, HostValues(site, user, installed_program(), os.environ))
        for name in names:
            if name not in texts:
                raise UserError(
                    f"There is no file {name!r} for {kind.name}.", hint=f"it has {', '.join(texts)}"
                )
        _show({name: texts[name] for name in names or texts}, output, as_json=as_json)


for _kind in KINDS.values():
    _add_command(_kind)


@print_.command(
    _POLICY,
    help=f"""Print {_POLICY_PURPOSE}.

    With -o also the rule that removes unfinished uploads, and a script that puts both on a bucket.
    """,
    example="fedfs deploy print s3-policy --bucket studies --prefix organ \\\n"
    "    --aggregator arn:aws:iam:::user/fedfs-aggregator \\\n"
    "    --sites north=arn:aws:iam:::user/fedfs-north",
)
@option("--bucket", required=True, help="The bucket.")
@option("--prefix", default="", section=STORAGE, help="What follows the bucket in the store's URL.")
@option(
    "--sites", multiple=True, section=STUDY, metavar="NAME=ARN", help="User of a site. Repeatable."
)
@option("--aggregator", multiple=True, section=STUDY, metavar="ARN", help="User of that role.")
@option("--coordinator", multiple=True, section=STUDY, metavar="ARN", help="User of that role.")
@option("--reader", multiple=True, section=STUDY, metavar="ARN", help="User who reads everything.")
@option(
    "--helper", multiple=True, section=STUDY, metavar="ARN", help="User of that role: secure sums."
)
@option("--tls-only", is_flag=True, help="Refuse requests without TLS.")
@option("--identity", is_flag=True, help="To attach to one user: without Principal.")
@option("--lifecycle", is_flag=True, help="The rule that removes unfinished uploads instead.")
@_output
@json_option
def s3_policy(
    *,
    bucket: str,
    prefix: str,
    sites: tuple[str, ...],
    tls_only: bool,
    identity: bool,
    lifecycle: bool,
    output: Path | None,
    as_json: bool,
    **users: tuple[str, ...],
) -> None:
    """Print a policy; its help is above."""
    from fedfs.roles.deploy.bucket_policy import Grant, Place, bucket_policy, lifecycle_rule

    place = Place(bucket, prefix)
    rule = {"lifecycle.json": lifecycle_rule(place) + "\n"}
    if lifecycle:
        _show(rule, output, as_json=as_json)
        return
    grants = [
        Grant(role, arn)
        for role in ("coordinator", "aggregator", "reader", "helper")
        for arn in users[role]
    ]
    for pair in sites:
        name, sign, arn = pair.partition("=")
        if not sign:
            raise click.BadParameter(f"{pair!r} is not NAME=ARN.", param_hint="--sites")
        grants.append(Grant("site", arn, name))
    texts = {
        "policy.json": bucket_policy(place, grants, tls_only=tls_only, identity=identity) + "\n"
    }
    if output and not identity:
        texts |= rule | {
            "make_bucket.py": (folder() / "s3" / "make_bucket.py").read_text(encoding="utf-8")
        }
    _show(texts, output, as_json=as_json)


def _show(texts: Mapping[str, str], output: Path | None, *, as_json: bool) -> None:
    """Print files, or write them and print their paths."""
    if output is None and as_json:
        show_json([{"file": name, "text": text} for name, text in texts.items()])
    elif output is None:
        for i, (name, text) in enumerate(texts.items()):
            if len(texts) > 1:  # alone it is printed as it is, so that it can be redirected
                click.echo(f"{chr(10) if i else ''}# ---- {name}")
            click.echo(text, nl=False)
    else:
        paths = write_files(texts, output)
        if as_json:
            show_json([{"file": n, "path": p} for n, p in zip(texts, paths, strict=True)])
            return
        for path in paths:
            click.echo(f"wrote {path}")
