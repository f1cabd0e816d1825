"""The party that something is carried for: a site, or the helper in place of one."""

from fedfs.protocol.values import HELPER_SITE


def party_name(site: str) -> str:
    """Return the party as messages name it."""
    return "the helper" if site == HELPER_SITE else site


def party_option(direction: str, site: str) -> str:
    """Return the option of ``fedfs bundle export`` for a direction and a party."""
    return f"--{direction}-helper" if site == HELPER_SITE else f"--{direction} {site}"
