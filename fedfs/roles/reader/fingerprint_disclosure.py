"""Content of a site's fingerprint, and what it tells, for people. Pure."""

from fedfs.protocol.messages import Charter, FingerprintMessage
from fedfs.roles.reader.units import format_count


def fingerprint_amount(charter: Charter, fingerprint: FingerprintMessage) -> str:
    """Return how much a fingerprint holds."""
    n_cases = fingerprint.n_cases
    if charter.fingerprint_quantiles is not None:
        per_case = f"{charter.fingerprint_quantiles} quantiles of sizes and spacings"
    else:
        per_case = f"size and spacing of each of {n_cases} cases, in random order"
        if (n_lines := len(set(fingerprint.geometry))) < n_cases:
            per_case += f" ({n_lines} distinct)"
    n_channels = len(charter.dataset.channel_names)
    channels = "one channel" if n_channels == 1 else f"{n_channels} channels"
    n_quantiles = max((len(one.quantiles) for one in fingerprint.channels), default=0)
    quantiles = format_count(n_quantiles, "quantile")
    if _holds_extremes(fingerprint):
        quantiles += ", the extremes among them"
    digits = charter.fingerprint_digits
    rounded = f", rounded to {digits} digits" if digits else ""
    return f"intensities of {channels}: mean, spread, {quantiles}; {per_case}{rounded}"


def _holds_extremes(fingerprint: FingerprintMessage) -> bool:
    """Return whether a fingerprint gives the smallest or the largest voxel of a channel."""
    return any({0.0, 1.0} & set(channel.probabilities) for channel in fingerprint.channels)


def fingerprint_tells(charter: Charter, fingerprint: FingerprintMessage) -> str:
    """Return what a fingerprint tells about the site's data."""
    extremes = "; the two extremes are real voxels" if _holds_extremes(fingerprint) else ""
    unusual = (
        "" if charter.fingerprint_quantiles is not None
        else "; an unusual size may identify a case to somebody who knows it"
    )  # fmt: skip
    return f"what its scanners and patients are typically like{extremes}{unusual}"
