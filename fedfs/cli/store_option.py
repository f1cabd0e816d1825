"""STORE on the command line: a folder or a bucket, and how the bucket is reached."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from fedfs.store import S3Options, StorePlace

_OPTIONS = (
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

    for option in reversed(_OPTIONS):
        with_place = option(with_place)
    return click.argument("store")(with_place)
