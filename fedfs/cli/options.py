"""Options and arguments that several commands share; each is spelled here once."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from fedfs.cli.command import HOST, NETWORK, OUTPUT, PRIVACY, S3, STORAGE, argument, option
from fedfs.protocol import layout
from fedfs.roles.log_format import LOG_FORMATS, TEXT
from fedfs.store import S3Options, StorePlace

_Command = TypeVar("_Command", bound=Callable[..., Any])
_Option = Callable[[Callable[..., Any]], Callable[..., Any]]

FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)

default_option = functools.partial(option, show_default=True)
"""An option whose help shows its default."""


def with_options(command: Callable[..., Any], options: Sequence[_Option]) -> Callable[..., Any]:
    """Give a command options, in their order in its help."""
    for give in reversed(options):
        command = give(command)
    return command


def complete_sites(context: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    """Return the sites of a store that is a folder, for a shell; a bucket would take too long."""
    store = context.params.get("store")
    folder = Path(str(store)) / layout.SITES
    if not store or not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if path.name.startswith(begun))


json_option = option("--json", "as_json", is_flag=True, section=OUTPUT, help="Print JSON.")
yes_option = option("--yes", is_flag=True, help="Do not ask; needed where there is no terminal.")


def yes_option_if(needed: bool) -> _Option:  # noqa: FBT001  the only argument
    """Return the option ``--yes``, or one that gives a command nothing."""
    return yes_option if needed else lambda command: command


once_option = option(
    "--once", is_flag=True, help="Do what can be done now, then return (for cron)."
)
site_option = functools.partial(
    option, "--site", "name", metavar="NAME", shell_complete=complete_sites
)
this_site_option = site_option(required=True, help="This site's name in the study.")
policy_option = option(
    "--policy",
    type=FILE,
    envvar="FEDFS_SITE_POLICY",
    section=PRIVACY,
    help="Policy of this site; default: site-policy.toml in /etc/fedfs, or beside the keys.",
)
allow_versions_option = option(
    "--allow-versions",
    is_flag=True,
    section=HOST,
    help="Take part with another nnunetv2 than the charter's; the coordinator has to agree.",
)
allow_trainer_option = option(
    "--allow-trainer",
    "allowed_trainers",
    section=HOST,
    multiple=True,
    metavar="NAME",
    help="Trainer below nnUNet_extTrainer that this host may import and run. Repeatable.",
)
some_tracks_option = functools.partial(option, "--track", "tracks", multiple=True, metavar="NAME")
tracks_option = some_tracks_option(
    help="Work on this track only, in a study of several; repeatable. Default: all of them.",
)
device_option = option(
    "--device",
    type=click.Choice(["cuda", "cpu", "mps"]),
    section=HOST,
    help="Device to train on; default: the best there is.",
)
track_option = functools.partial(option, "--track", metavar="NAME")
verbose_option = functools.partial(option, "-v", "--verbose", is_flag=True, section=OUTPUT)
log_format_option = default_option(
    "--log-format",
    type=click.Choice(LOG_FORMATS),
    default=TEXT,
    section=OUTPUT,
    help="Lines for people, or a JSON object on each.",
)


def _usual_processes() -> int:
    from fedfs.nnunet.system.environment import usual_processes

    return usual_processes()


def _at_most_cores(context: click.Context, _option: click.Parameter, value: int) -> int:
    """Return a number of processes that this host has cores for; a callback of click's."""
    from fedfs.nnunet.system.environment import usable_cores

    if context.resilient_parsing:  # a shell asks for completions
        return value
    if value > (cores := usable_cores()):
        click.echo(f"-np {value} is more than this host has cores: {cores} are used.", err=True)
    return min(value, cores)


num_processes_option = functools.partial(
    option,
    "-np",
    "--num-processes",
    type=click.IntRange(min=1),
    default=_usual_processes,
    show_default="8, or as many as the host has cores",
    callback=_at_most_cores,
    section=HOST,
)
skip_broken_option = functools.partial(option, "--skip-broken-cases", "skip_broken", is_flag=True)
keep_versions_option = functools.partial(
    option, "--keep-versions", type=click.IntRange(min=1), section=STORAGE
)


def site_unless(name: str | None, *, other_role: bool) -> str | None:
    """Return the option ``--site``, where no other role is named on the command line.

    A site that comes from the environment or a file is that of the host: it gives way to
    ``--aggregator`` or ``--coordinator``, while one on the command line stays, to be refused.
    """
    source = click.get_current_context().get_parameter_source("name")
    return name if not other_role or source is click.core.ParameterSource.COMMANDLINE else None


def number_pairs(
    _context: click.Context, _option: click.Parameter, values: tuple[str, ...]
) -> dict[str, float]:
    """Return ``NAME=NUMBER`` options as a dict; a callback of click's.

    Raises:
        click.BadParameter: a value is not of that form.
    """
    try:
        return dict(map(read_number, values))
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def read_number(text: str) -> tuple[str, float]:
    """Return name and value of ``NAME=NUMBER``, or of ``grace=adaptive``, which stands for one.

    Raises:
        ValueError: it is neither; with a sentence.
    """
    from fedfs.protocol.round_policies import ADAPTIVE_GRACE

    if text == "grace=adaptive":
        return "adaptive_grace", ADAPTIVE_GRACE
    name, sign, number = text.partition("=")
    if sign:
        with contextlib.suppress(ValueError):
            return name, float(number)
    raise ValueError(f"{text!r} is not NAME=NUMBER.")


def numbers_option(
    name: str, variable: str, text: str, *, section: str = NETWORK
) -> Callable[[_Command], _Command]:
    """Return a repeatable option ``NAME=NUMBER``."""
    return option(
        name,
        variable,
        multiple=True,
        metavar="NAME=NUMBER",
        callback=number_pairs,
        section=section,
        help=f"{text} Repeatable.",
    )


_waiting = functools.partial(default_option, section=STORAGE)
_WAIT_OPTIONS = (
    _waiting("--poll-interval", default=0.25, metavar="SECONDS", help="Shortest wait."),
    _waiting("--max-poll-interval", default=5.0, metavar="SECONDS", help="Longest wait."),
    _waiting("--poll-jitter", default=0.2, metavar="SHARE", help="Random share of each wait."),
)


def wait_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of polling, as one ``wait``, which is a ``WaitSettings``."""

    @functools.wraps(command)
    def with_wait(
        *, poll_interval: float, max_poll_interval: float, poll_jitter: float, **others: Any
    ) -> Any:
        from fedfs.roles.polling import WaitSettings

        wait = WaitSettings(poll_interval, max_poll_interval, poll_jitter)
        return command(wait=wait, **others)

    return with_options(with_wait, _WAIT_OPTIONS)


def takes_host(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command those of its options that are about this host as one ``HostSettings``."""

    @functools.wraps(command)
    def with_host(**options: Any) -> Any:
        from fedfs.nnunet.system.environment import HostSettings

        names = {field.name for field in dataclasses.fields(HostSettings)} & set(options)
        return command(host=HostSettings(**{name: options.pop(name) for name in names}), **options)

    return with_host


_s3 = functools.partial(option, section=S3)
_S3_OPTIONS = (
    _s3("--s3-endpoint", "endpoint_url", metavar="URL", help="The server, as AWS_ENDPOINT_URL."),
    _s3("--s3-region", "region", help="Region, as AWS_REGION."),
    _s3("--s3-profile", "profile", help="Profile of ~/.aws/config, as AWS_PROFILE."),
    _s3(
        "--s3-path-style/--s3-virtual-style",
        "path_style",
        default=None,
        help="Name the bucket in the path, or in the host.",
    ),
    _s3(
        "--s3-ca-bundle",
        "ca_bundle",
        metavar="FILE",
        help="Certificates to trust, as AWS_CA_BUNDLE.",
    ),
    _s3("--s3-proxy", "proxy", metavar="URL", help="Proxy, as HTTPS_PROXY."),
)


STORE = argument(
    "store",
    envvar="FEDFS_STORE",
    help="Folder, s3://bucket/prefix or sftp://host/folder that all hosts of the study use.",
)


def store_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the argument STORE, as a :class:`fedfs.store.StorePlace`."""

    @functools.wraps(command)
    def with_place(*, store: str, **options: Any) -> Any:
        s3 = S3Options(**{f.name: options.pop(f.name) for f in dataclasses.fields(S3Options)})
        return command(store=StorePlace(store, s3), **options)

    return STORE(with_options(with_place, _S3_OPTIONS))
