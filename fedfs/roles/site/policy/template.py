"""A policy file to fill in: every key with what it does, its default as a comment."""

import json
import textwrap

from fedfs.roles.site.policy.rules import DEFAULT, KEYS

EXPLANATIONS = {
    "minimum_cases": "Of fewer cases than this, no fingerprint, plan, update or score leaves.",
    "minimum_scored_cases": "No score over fewer validation cases than this leaves.",
    "extremes": "Whether fingerprints and plans hold the smallest and the largest voxel.",
    "fingerprint_digits": "Most significant digits of a number in a fingerprint.",
    "fingerprint_quantiles": "Most lines of sizes and spacings in a fingerprint.",
    "encryption": '"required": updates, fingerprints and models leave encrypted only.',
    "secure_sums": '"required": updates leave only where nobody can see a single one.',
    "scores": '"site": of its cases together; "totals": only in totals over sites; "none".',
    "encodings": "Encodings of updates that a charter may have.",
    "strategies": "Strategies that a charter may have.",
    "trainers": "Trainers that a charter may have.",
    "max_rounds": "Most rounds of a study.",
    "max_round_hours": "The training of a round ends after so many hours.",
    "models_elsewhere": "Whether a model of this site may be published for other sites to score.",
    "coordinators": "Fingerprints of the keys that may lead a study.",
}
"""Key -> what it does, in a sentence."""

_EXAMPLES = {
    "fingerprint_digits": 3,
    "fingerprint_quantiles": 5,
    "encodings": ["int8", "topk"],
    "strategies": ["FedAvg"],
    "trainers": ["nnUNetTrainer"],
    "max_rounds": 100,
    "max_round_hours": 12,
    "coordinators": ["b8be 9b7f 4d6b 52e0 552d 155d ba51 82a9"],
}
_HEAD = """\
# What may leave this site, whatever the charter of a study says.
# A key after a "#" shows the default, or an example where anything is allowed by default:
# remove the "#" to change it. It is in force as /etc/fedfs/site-policy.toml, beside the keys of the
# user that runs fedfs, or where --policy or FEDFS_SITE_POLICY names it. Only its owner may be able
# to write it. A site that is at work reads it when it starts again.
"""


def template() -> str:
    """Return the text of a policy file with all keys."""
    values = DEFAULT.to_json()
    blocks = [_HEAD]
    for key in KEYS:
        text = EXPLANATIONS[key]
        if values[key] is None:
            text += " Default: any."
        value = json.dumps(_EXAMPLES[key] if values[key] is None else values[key])
        comment = textwrap.fill(text, 98, initial_indent="# ", subsequent_indent="# ")
        blocks.append(f"{comment}\n# {key} = {value}\n")
    return "\n".join(blocks)
