"""Options and arguments that several commands share; each is spelled here once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import click

from fedfs.store import S3Options, StorePlace

_Command = TypeVar("_Command", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
once_option = click.option(
    "--once", is_flag=True, help="Do what can be done now, then return (for cron)."
)
site_option = click.option("--site", "name", required=True, help="This site's name in the study.")
allow_versions_option = click.option(
    "--allow-versions",
    is_flag=True,
    help="Take part with another nnunetv2 than the charter's; the coordinator has to agree.",
)
allow_trainer_option = click.option(
    "--allow-trainer",
    "allowed_trainers",
    multiple=True,
    metavar="NAME",
    help="Trainer below nnUNet_extTrainer that this host may import and run. Repeatable.",
)
tracks_option = click.option(
    "--track",
    "tracks",
    multiple=True,
    metavar="NAME",
    help="Work on this track only, in a study of several; repeatable. Default: all of them.",
)
device_option = click.option(
    "--device", type=click.Choice(["cuda", "cpu", "mps"]), help="Default: the best."
)


def track_option(text: str) -> Callable[[_Command], _Command]:
    """Return the option for one track of a study that has several."""
    return click.option("--track", metavar="NAME", help=text)


def verbose_option(text: str = "Log everything.") -> Callable[[_Command], _Command]:
    """Return the option that logs more than a line for each thing done."""
    return click.option("-v", "--verbose", is_flag=True, help=text)


def num_processes_option(text: str) -> Callable[[_Command], _Command]:
    """Return the option for the number of worker processes."""
    return click.option("-np", "--num-processes", default=8, show_default=True, help=text)


def skip_broken_option(text: str) -> Callable[[_Command], _Command]:
    """Return the option to go on without cases that cannot be used."""
    return click.option("--skip-broken-cases", "skip_broken", is_flag=True, help=text)


def keep_versions_option(text: str) -> Callable[[_Command], _Command]:
    """Return the option for the number of versions whose payloads stay on the store."""
    return click.option("--keep-versions", type=click.IntRange(min=1), help=text)


def number_pairs(
    _context: click.Context, _option: click.Parameter, values: tuple[str, ...]
) -> dict[str, float]:
    """Return ``NAME=NUMBER`` options as a dict; a callback of click's.

    Raises:
        click.BadParameter: a value is not of that form.
    """
    out: dict[str, float] = {}
    for value in values:
        name, sign, number = value.partition("=")
        try:
            out[name] = float(number)
        except ValueError:
            sign = ""
        if not sign:
            raise click.BadParameter(f"{value!r} is not NAME=NUMBER")
    return out


def numbers_option(name: str, variable: str, text: str) -> Callable[[_Command], _Command]:
    """Return a repeatable option ``NAME=NUMBER``."""
    return click.option(
        name,
        variable,
        multiple=True,
        metavar="NAME=NUMBER",
        callback=number_pairs,
        help=f"{text} Repeatable.",
    )


_WAIT_OPTIONS = (
    click.option(
        "--poll-interval", default=0.25, show_default=True, help="Shortest wait, seconds."
    ),
    click.option(
        "--max-poll-interval", default=5.0, show_default=True, help="Longest wait, seconds."
    ),
    click.option(
        "--poll-jitter", default=0.2, show_default=True, help="Random share of each wait."
    ),
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

    for option in reversed(_WAIT_OPTIONS):
        with_wait = option(with_wait)
    return with_wait


_S3_OPTIONS = (
    click.option("--s3-endpoint", "endpoint_url", metavar="URL", help="As AWS_ENDPOINT_URL."),
    click.option("--s3-region", "region", help="As AWS_REGION."),
    click.option("--s3-profile", "profile", help="As AWS_PROFILE."),
    click.option(
        "--s3-path-style/--s3-virtual-style",
        "path_style",
        default=None,
        help="Bucket in the path, or in the host's name.",
    ),
    click.option("--s3-ca-bundle", "ca_bundle", metavar="FILE", help="As AWS_CA_BUNDLE."),
    click.option("--s3-proxy", "proxy", metavar="URL", help="As HTTPS_PROXY."),
)


def store_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the argument STORE, as a :class:`fedfs.store.StorePlace`."""

    @functools.wraps(command)
    def with_place(
        *,
        store: str,
        endpoint_url: str | None,
        region: str | None,
        profile: str | None,
        path_style: bool | None,
        ca_bundle: str | None,
        proxy: str | None,
        **others: Any,
    ) -> Any:
        given = {
            "endpoint_url": endpoint_url,
            "region": region,
            "profile": profile,
            "path_style": path_style,
            "ca_bundle": ca_bundle,
            "proxy": proxy,
        }
        s3: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        return command(store=StorePlace(store, S3Options(**s3)), **others)

    for option in reversed(_S3_OPTIONS):
        with_place = option(with_place)
    return click.argument("store")(with_place)
