"""Commands by which a site pauses, leaves a study or comes back: ``site pause`` and others."""

from pathlib import Path

import click

from fedfs.cli import options
from fedfs.cli.command import command, option
from fedfs.cli.terminal import confirm, show_json
from fedfs.store import StorePlace


def _attendance_command(
    verb: str, status: str, text: str, *, needs_yes: bool = False
) -> click.Command:
    """Return a command that tells the others whether this site takes part."""
    example = f"fedfs site {verb} /mnt/share/organ --site north{' --yes' if needs_yes else ''}"

    @command(verb, help=text, example=example)
    @options.store_argument
    @options.this_site_option
    @option("--reason", default="", help="Reason, for the others to read.")
    @options.policy_option
    @options.yes_option_if(needs_yes)
    @options.json_option
    def change(
        store: StorePlace,
        name: str,
        *,
        reason: str,
        policy: Path | None,
        as_json: bool,
        yes: bool = True,
    ) -> None:
        from fedfs.roles.site.config import SiteConfig
        from fedfs.roles.site.run import attend
        from fedfs.trust.keyring import default_home

        confirm(f"Leave the study at {store} for good, with site {name}?", yes=yes)
        is_new = attend(SiteConfig(store, name, default_home(), policy=policy), status, reason)
        if as_json:
            show_json({"site": name, "status": status, "changed": is_new})
        else:
            click.echo(f"site {name!r} is {status}{'' if is_new else ' already'}")

    return change


pause = _attendance_command(
    "pause",
    "paused",
    """Let the others go on without this site.

It comes back with fedfs site resume.""",
)
leave = _attendance_command(
    "leave",
    "left",
    """Leave the study for good.

What this site has published stays.""",
    needs_yes=True,
)
resume = _attendance_command(
    "resume",
    "present",
    """Take part again after a pause.

From the newest version on.""",
)
