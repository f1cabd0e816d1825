"""Errors about certificates of servers, told from the words of OpenSSL."""

from fedfs.errors import StoreError


def certificate_error(
    text: str, what: str, server: str, *, setting: str, store: str = ""
) -> StoreError | None:
    """Return an error that says what is wrong with a certificate, None if that is not the trouble.

    Args:
        text: of a client's error.
        what: what could not be done, the beginning of the message.
        server: whose certificate it is.
        setting: where the file of the authorities to trust is named.
        store: URL of the store.
    """
    if "CERTIFICATE_VERIFY_FAILED" not in text:
        return None
    if "has expired" in text:
        return StoreError(
            f"{what}: the certificate of {server} has expired.",
            hint="whoever runs the server, or a proxy in between, has to renew it; or this host's "
            "clock is wrong",
            store=store,
        )
    if "not yet valid" in text:
        return StoreError(
            f"{what}: the certificate of {server} is not valid yet.",
            hint="set this host's clock; if it is right, ask whoever runs the server",
            store=store,
        )
    if "mismatch" in text:
        return StoreError(
            f"{what}: the certificate of {server} is for another name.",
            hint="give the server's URL with the name that its certificate is for",
            store=store,
        )
    return StoreError(
        f"{what}: the certificate of {server} is signed by an authority that this host does not "
        "trust.",
        hint="name the file of that authority, the server's or that of a proxy that inspects TLS: "
        f"{setting}",
        store=store,
    )
