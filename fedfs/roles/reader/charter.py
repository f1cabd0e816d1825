"""A study's charter as text for people, and each amendment of it.

Pure: from charters to lines. Sections are those of the help of ``fedfs init``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fedfs.nnunet.data.dataset_json import ordered
from fedfs.protocol.messages import ASYM, Charter, Named, RosterEntry, TrackCharter
from fedfs.protocol.round_policies import staleness_exponent
from fedfs.roles.reader.given_models import NOT_TRAINED_HERE, describe_models
from fedfs.roles.reader.helper_status import describe_rules
from fedfs.roles.reader.log import charter_changes
from fedfs.roles.reader.trained_part import describe_part
from fedfs.roles.reader.units import format_count, format_size
from fedfs.tensors import encodings
from fedfs.tensors.encodings import RandK
from fedfs.trust.recipients import AGE
from fedfs.trust.signing import key_fingerprint

Facts = Mapping[str, str]


@dataclass(frozen=True)
class SiteChange:
    """A site's entry on the roster, before and after an amendment; "" for none.

    Attributes:
        before, after: its state.
        key_before, key_after: fingerprints of its key.
    """

    site: str
    before: str
    after: str
    key_before: str
    key_after: str


@dataclass(frozen=True)
class Amendment:
    """One charter of a study.

    Attributes:
        number: 1 for the one that began the study.
        at: UTC time, by the coordinator's clock.
        by: fingerprint of the key that signed it.
        changes: what it changed, as text; empty for nothing.
        sites: entries of the roster that it changed.
    """

    number: int
    at: str
    by: str
    changes: tuple[str, ...]
    sites: tuple[SiteChange, ...]


def describe(charter: Charter) -> dict[str, Facts]:
    """Return section -> name -> text: all that the coordinator chose for a study."""
    if charter.evaluates:
        return {
            "Study": dict(_study(charter)),
            "Models": {
                "mode": f"{charter.mode}: nothing is trained, every site scores these models",
                **dict(describe_models(charter)),
                "cases": f"all of each site: {NOT_TRAINED_HERE}",
            },
            "Privacy": dict(_privacy(charter)),
        }
    return {
        "Study": dict(_study(charter)),
        "Network": dict(_network(charter)),
        "Training": dict(_training(charter)),
        "Rounds": dict(_rounds(charter)),
        "Privacy": dict(_privacy(charter)),
        "Storage": dict(_storage(charter)),
    }


def amendments(charters: Mapping[int, TrackCharter]) -> list[Amendment]:
    """Return every charter of a study with what it changed, the first one first."""
    out = []
    before: TrackCharter | None = None
    for number in sorted(charters):
        charter = charters[number]
        signed = charter if before is None else before
        out.append(
            Amendment(
                number=number,
                at=charter.created_at,
                by=key_fingerprint(signed.coordinator_key),
                changes=tuple(() if before is None else charter_changes(before, charter)),
                sites=tuple(_site_changes(before.roster if before else (), charter.roster)),
            )
        )
        before = charter
    return out


def _site_changes(
    before: Sequence[RosterEntry], after: Sequence[RosterEntry]
) -> Iterator[SiteChange]:
    old = {entry.site: entry for entry in before}
    for entry in after:
        one = old.get(entry.site)
        if one != entry:
            key = key_fingerprint(entry.public_key)
            key_before = key_fingerprint(one.public_key) if one else ""
            yield SiteChange(entry.site, one.state if one else "", entry.state, key_before, key)


def _study(charter: Charter) -> Iterator[tuple[str, str]]:
    dataset = charter.dataset
    yield "name", charter.name
    if charter.study:
        yield "id", charter.study
    yield "dataset", f"{dataset.name}, files end with {dataset.file_ending}"
    channels = sorted(dataset.channel_names.items(), key=lambda item: (len(item[0]), item[0]))
    yield "channels", ", ".join(f"{number} {name}" for number, name in channels)
    labels = ordered(charter.dataset_json())["labels"]
    yield "labels", ", ".join(f"{name} {_label(value)}" for name, value in labels.items())
    if dataset.regions_class_order is not None:
        yield "regions", f"written in the order {', '.join(map(str, dataset.regions_class_order))}"
    what = "the end" if charter.evaluates else "planning"
    yield "sites", f"{what} waits for {format_count(charter.min_sites, 'site')}"
    yield "cases", f"a site needs at least {format_count(charter.minimum_cases, 'case')}"
    if charter.continues is not None:
        yield "continues", f"version {charter.continues.version} of {charter.continues.study}"
    versions = charter.nnunet.versions
    yield "software", ", ".join(f"{name} {versions[name]}" for name in sorted(versions)) or "any"


def _label(value: object) -> str:
    return "+".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _network(charter: Charter) -> Iterator[tuple[str, str]]:
    spec, rule = charter.nnunet, charter.asym
    if charter.mode != ASYM or rule is None:
        yield "mode", f"{charter.mode}: one plan for all sites"
    else:
        yield "mode", f"{charter.mode}: every site plans for itself and shares what fits"
        least = f"every site has to share at least {100 * rule.min_coverage:g}% of its parameters"
        yield "sharing", f"tensors aligned by {rule.alignment}, shared {rule.sharing}; {least}"
    if charter.keep_local:
        yield (
            "stays local",
            f"normalisation layers: each site has its own; {_local_export(charter)}",
        )
    if charter.train_only is not None:
        yield "trains only", describe_part(charter)
    tracks = [f"{track.configuration} fold {track.fold}" for track in charter.tracks]
    yield "models" if len(tracks) > 1 else "model", ", ".join(tracks)
    memory = spec.gpu_memory_target_gb
    target = "nnU-Net's usual memory" if memory is None else f"{memory:g} GB of GPU memory"
    yield "planner", f"{spec.planner}{_options(spec.planner_options)}, for {target}"
    if spec.target_spacing is not None:
        yield "spacing", f"{' x '.join(f'{mm:g}' for mm in spec.target_spacing)} mm"
    yield "begins with", _beginning(charter)


def _local_export(charter: Charter) -> str:
    if charter.withholds:
        return "nothing of them leaves a site, and only sites have complete models"
    return "their mean is in versions too, for others"


def _beginning(charter: Charter) -> str:
    if charter.continues is not None:
        return "the weights of the study that it continues"
    seed = f"seed {charter.schedule.seed}"
    if charter.pretrained is None:
        return f"random weights, {seed}"
    sha256 = charter.pretrained.content_sha256 or charter.pretrained.sha256
    size = format_size(charter.pretrained.content_size or charter.pretrained.size)
    return f"pretrained weights {sha256[:16]}, {size}; segmentation layers random, {seed}"


def _training(charter: Charter) -> Iterator[tuple[str, str]]:
    plan = charter.schedule
    yield "trainer", charter.nnunet.trainer
    epochs = format_count(plan.local_epochs, "epoch")
    iterations = format_count(plan.local_epochs * plan.iterations_per_epoch, "iteration")
    minutes = plan.local_minutes
    limit = "" if minutes is None else f", ended after {minutes:g} min"
    yield "in each round", f"{epochs} of nnU-Net, {iterations}{limit}"
    n_all = plan.rounds * plan.local_epochs * plan.iterations_per_epoch
    rate = plan.learning_rate
    own = "the trainer's own"
    yield "learning rate", own if rate is None else f"{rate:g} in place of {own}"
    yield "in all", f"{format_count(n_all, 'iteration')} at each site"
    yield "validation", f"{format_count(plan.val_iterations_per_epoch, 'iteration')} in each epoch"


def _rounds(charter: Charter) -> Iterator[tuple[str, str]]:
    yield "rounds", str(charter.schedule.rounds)
    yield "a round ends", _policy(charter.policy)
    weights = {"n_cases": "weighted by training cases", "uniform": "all with the same weight"}
    how = weights.get(charter.weighting.name, f"weighted by {charter.weighting.name}")
    yield "updates", f"combined by {_named(charter.strategy)}, {how}"
    if charter.average_last:
        yield "mean", f"of the last {charter.average_last} versions, which sites validate too"
    if charter.ema:
        yield "average", f"exponential, decay {charter.ema:g}: with each version, validated too"
    if charter.ensemble:
        yield "ensemble", "every site publishes its model of the round, and scores the mean of all"
    ratio = charter.max_move_ratio
    refused = f"one that moves the model more than {ratio:g} times as far as their median"
    yield "refused", refused if ratio else "none for how far it moves the model"


def _policy(policy: Named) -> str:
    options, name = policy.options, policy.name
    if name == "quorum":
        share = (
            f"{options['sites']:g} or more sites"
            if "sites" in options
            else f"sites with {options.get('cases_percent', 0):g}% of all cases"
        )
        text = f"when {share} have answered"
        if "grace_minutes" in options:
            text += f" and it is {options['grace_minutes']:g} min old"
        if "adaptive_grace" in options:
            factor = options["adaptive_grace"]
            text += (
                f"; others are waited for {factor:g} times as long as their own last rounds took"
            )
        if "deadline_minutes" in options:
            text += f"; after {options['deadline_minutes']:g} min in any case"
    elif name == "buffer":
        text = f"after every {options.get('size', 0):g} updates, from whatever version"
        if "deadline_minutes" in options:
            text += f"; with fewer after {options['deadline_minutes']:g} min"
    elif name == "all":
        text = "when every site has answered"
    else:
        text = f"by {_named(policy)}"
    late = staleness_exponent(policy)
    return f"{text}; a late update weighs (1 + lag)^-{late:g}"


def _privacy(charter: Charter) -> Iterator[tuple[str, str]]:
    if charter.encryption == AGE:
        updates = "" if charter.evaluates else "updates and fingerprints for the aggregator, "
        yield "encryption", f"age: {updates}models and plans for the roster"
    else:
        yield "encryption", "none: who can read the store can read everything on it"
    if charter.evaluates:
        yield "scores", "sites publish numbers over all of their cases together"
        return
    yield from describe_rules(charter)
    digits, quantiles = charter.fingerprint_digits, charter.fingerprint_quantiles
    precision = "all digits" if digits is None else f"{digits} significant digits"
    amount = "a line for each case" if quantiles is None else f"{quantiles} quantiles of each axis"
    yield "fingerprints", f"{amount}, {precision}"
    if charter.cross_evaluates:
        yield "models", "every site publishes its whole model in the end, and scores the others'"


def _storage(charter: Charter) -> Iterator[tuple[str, str]]:
    yield "updates", f"travel as {_named(charter.encoding)}{_how_often(charter)}"
    if charter.model_encoding.name == "fp32":
        yield "versions", "travel as fp32, in full"
    else:
        full = f"every {charter.keyframe_every} versions one is there in full"
        yield "versions", f"travel as deltas, {_named(charter.model_encoding)}; {full}"


def _how_often(charter: Charter) -> str:
    encoding = encodings.by_name(charter.encoding.name, charter.encoding.options)
    if not isinstance(encoding, RandK):
        return ""
    rounds = charter.schedule.rounds
    times = f"{encoding.fraction * rounds:.3g} of {rounds} rounds"
    return f": in large layers, a value is trained in about {times}"


def _named(named: Named) -> str:
    return f"{named.name}{_options(named.options)}"


def _options(options: Mapping[str, float]) -> str:
    listed = ", ".join(f"{name}={value:g}" for name, value in sorted(options.items()))
    return f" ({listed})" if listed else ""
