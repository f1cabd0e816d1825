"""Announcement of a site's data: its fingerprint, or in the mode ``asym`` its own plan.

What is published is never replaced, so it is checked first as the aggregator will.
"""

from fedfs.aggregation.disclosure import coarsen
from fedfs.aggregation.fingerprint_checks import validate_fingerprint
from fedfs.errors import DatasetError, MalformedError, SetupError
from fedfs.exchange.progress import StatusReporter
from fedfs.exchange.publish import Publisher
from fedfs.learner import Learner
from fedfs.protocol import layout, messages
from fedfs.protocol.messages import Charter
from fedfs.roles.site.policy.comparison import smaller
from fedfs.roles.site.policy.rules import SitePolicy
from fedfs.trust.recipients import for_aggregator


class Announcement:
    """Publishes what planning needs to know of a site.

    Args:
        site: the site's name.
        publisher: signs with the site's key.
        learner: knows the site's data.
        status: takes the progress.
        policy: of the site.
    """

    def __init__(
        self,
        site: str,
        publisher: Publisher,
        learner: Learner,
        status: StatusReporter,
        policy: SitePolicy,
    ) -> None:
        self._site = site
        self._publisher = publisher
        self._learner = learner
        self._status = status
        self._policy = policy

    def publish_fingerprint(self, charter: Charter) -> str:
        """Read the dataset and publish its fingerprint; return a sentence for the log.

        Raises:
            DatasetError: there are too few cases, or the aggregator would refuse it.
        """
        measured = self._learner.fingerprint(self._status.progress)
        require_cases(measured.n_cases, charter, "a fingerprint")
        fingerprint = coarsen(
            measured,
            extremes=self._policy.extremes,
            digits=smaller(self._policy.fingerprint_digits, charter.fingerprint_digits),
            quantiles=smaller(self._policy.fingerprint_quantiles, charter.fingerprint_quantiles),
        )
        try:
            validate_fingerprint(fingerprint)
        except MalformedError as error:
            raise DatasetError(
                f"The aggregator would refuse the fingerprint of this site: {error}",
                hint="are spacings, sizes and intensities of all images as they should be?",
            ) from error
        self._publisher.publish(
            messages.FingerprintMessage(
                key=layout.fingerprint(self._site),
                site=self._site,
                n_cases=fingerprint.n_cases,
                channels=fingerprint.channels,
                geometry=fingerprint.geometry,
            ),
            sealed_for=for_aggregator(charter),
        )
        return f"published the fingerprint of {fingerprint.n_cases} cases"

    def publish_plan(self, charter: Charter) -> str:
        """Plan for this site alone and publish what others need; return a sentence for the log.

        Raises:
            DatasetError: there are too few cases.
        """
        plan = self._learner.plan(self._status.progress)
        require_cases(plan.n_cases, charter, "a plan")
        self._publisher.publish(
            messages.SitePlan(
                key=layout.site_plan(self._site),
                site=self._site,
                n_cases=plan.n_cases,
                configuration=plan.configuration,
                tensors=plan.tensors,
                plans_sha256=plan.plans_sha256,
                versions=dict(self._learner.versions()),
            ),
            sealed_for=for_aggregator(charter, and_site=self._site),
        )
        return f"planned for itself from {plan.n_cases} cases: {len(plan.tensors)} tensors"


def require_announced(n_cases: int, announced: int | None) -> None:
    """Refuse to train on more cases than the aggregator takes an update of.

    Raises:
        SetupError: there are more.
    """
    if announced is not None and n_cases > announced:
        raise SetupError(
            f"This site has {n_cases} cases; it announced {announced} to this study, and its list "
            "of them is lost.",
            hint="move the cases that were added since out of the dataset",
        )


def require_cases(n_cases: int, charter: Charter, what: str) -> None:
    """Refuse to publish something of fewer cases than the charter asks for.

    Raises:
        DatasetError: there are fewer.
    """
    if n_cases < charter.minimum_cases:
        raise DatasetError(
            f"This site has {n_cases} cases; the charter asks for at least "
            f"{charter.minimum_cases} before {what} may be published.",
            hint="talk to the coordinator",
        )
