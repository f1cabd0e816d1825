"""The order in which messages are read and published: what one may refer to comes before it."""

from fedfs.protocol.layout import Key

# What a message may refer to is read before it, and what vouches for it.
_ORDER = (
    "charter", "join", "helper-join", "plan", "choice", "admission", "fingerprint", "site-plan",
    "round", "model", "sum-request", "update", "mask-sum", "attendance", "site-model", "finished",
    "evaluation", "cross-validation", "failure", "status", "aggregator-status", "helper-status",
)  # fmt: skip


def publication_rank(key: Key) -> tuple[bool, tuple[int, int, str]]:
    """Sort keys so that payloads come first, and a message behind those that it may refer to."""
    return (False, (0, 0, key.text)) if key.is_payload else (True, rank(key))


def rank(key: Key) -> tuple[int, int, str]:
    """Return the sort key of a message: behind all kinds that it may refer to, then by number."""
    return (_ORDER.index(key.kind), key.version or key.number or 0, key.text)
