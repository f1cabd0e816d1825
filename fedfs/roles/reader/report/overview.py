"""Overview of a study's tracks on one page: phase and scores of each, and the chosen model.

Pure, by the rules of :mod:`fedfs.roles.reader.report.data`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from fedfs.aggregation.best_configuration import FOREGROUND
from fedfs.nnunet.data.dataset_json import ordered
from fedfs.nnunet.score.summary import class_names
from fedfs.protocol.messages import Choice
from fedfs.protocol.state import StudyState
from fedfs.roles.reader.evaluations import weighted_mean
from fedfs.roles.reader.report.columns import Column, mean_of_known
from fedfs.roles.reader.report.data import Report

_OF_TRACKS = ("Phase", "Version", "Ended", "nnU-Net", "Best of the study")


@dataclass(frozen=True)
class TrackRow:
    """One track.

    Attributes:
        phase: and who is waited for, as text.
        version: newest of how many, as text.
        last_dice: mean pseudo Dice of the newest version that has been evaluated.
        final: site -> mean Dice of nnU-Net's full validation of the last version.
        final_mean: over sites, weighted by validation cases.
    """

    track: str
    phase: str
    version: str
    last_dice: float | None
    final: Mapping[str, float | None]
    final_mean: float | None


@dataclass(frozen=True)
class Overview:
    """Everything that the page shows.

    Attributes:
        facts: name -> value, as text, of what all tracks share.
        sites: names of all sites.
        versions: 0 to the newest of any track.
        dice: track -> mean pseudo Dice by version.
        train_loss: track -> mean loss of its updates by version.
        choice: the model that was chosen, and its candidates; None if none was.
        classes: what the choice calls a class or a step -> its name.
    """

    facts: Mapping[str, str]
    tracks: tuple[TrackRow, ...]
    sites: tuple[str, ...]
    versions: tuple[int, ...]
    dice: Mapping[str, Column]
    train_loss: Mapping[str, Column]
    choice: Choice | None
    classes: Mapping[str, str]

    @property
    def compared(self) -> list[tuple[str, float | None]]:
        """Candidates with their Dice, the best first."""
        dice = self.choice.dice if self.choice else {}
        return sorted(dice.items(), key=lambda pair: -1 if pair[1] is None else pair[1])[::-1]


def overview(reports: Mapping[str, Report], state: StudyState) -> Overview:
    """Return the overview of a study.

    Args:
        reports: of each track by name, one at least.
        state: of any track; what all of them share is in each.

    Raises:
        StudyError: the store holds no study that can be trusted.
    """
    charter = state.charter
    nnunet, content = charter.nnunet, ordered(charter.dataset_json())
    first = next(iter(reports.values()))
    versions = max((report.versions for report in reports.values()), key=len)
    return Overview(
        facts={
            **{name: value for name, value in first.facts.items() if name not in _OF_TRACKS},
            "nnU-Net": f"{nnunet.trainer}, nnunetv2 {nnunet.versions.get('nnunetv2', '?')}",
            "Tracks": f"{len(reports)}, of which {_finished(reports)} finished",
        },
        tracks=tuple(_track(name, report) for name, report in reports.items()),
        sites=tuple(sorted({row.site for report in reports.values() for row in report.sites})),
        versions=versions,
        dice={name: _padded(one.mean_dice, versions) for name, one in reports.items()},
        train_loss={name: _padded(_loss(one), versions) for name, one in reports.items()},
        choice=state.choice,
        classes={
            FOREGROUND: "the foreground",
            **{key: name for name, key in class_names(content).items()},
        },
    )


def _finished(reports: Mapping[str, Report]) -> int:
    return sum(report.facts["Ended"] != "not yet" for report in reports.values())


def _track(name: str, report: Report) -> TrackRow:
    known = [value for value in report.mean_dice if value is not None]
    return TrackRow(
        track=name,
        phase=report.facts["Phase"],
        version=report.facts["Version"],
        last_dice=known[-1] if known else None,
        final={row.site: row.final_mean for row in report.sites},
        final_mean=report.sums.final_mean
        if report.sums is not None and report.sums.totals
        else weighted_mean((r.n_validation_cases or 0, r.final_mean) for r in report.sites),
    )


def _loss(report: Report) -> Column:
    """Return the mean loss over sites, by version."""
    return tuple(mean_of_known(losses) for losses in zip(*report.train_loss.values(), strict=True))


def _padded(column: Column, versions: tuple[int, ...]) -> Column:
    return column + (None,) * (len(versions) - len(column))
