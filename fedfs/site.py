"""The site's loop: observe, decide, act, publish.

State is what is on the store (and, for speed, what nnU-Net left on this host): the loop keeps
nothing else, so it may be killed at any instruction and started again.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from fedfs.aggregate import encodings
from fedfs.checkpoint import TensorFile, weights_sha256, write_safetensors
from fedfs.errors import (
    DatasetError,
    FedfsError,
    ObjectExistsError,
    ObjectNotFoundError,
    StoreError,
    StudyError,
    TensorError,
    TrainingError,
)
from fedfs.learner import EvaluationResult, Learner, Progress, RoundTask, Tensors
from fedfs.loop import Outcome
from fedfs.observe import (
    MAX_MODEL_BYTES,
    Observer,
    fetch_payload,
    newest_charter,
    prune_cache,
)
from fedfs.protocol import layout, rounds
from fedfs.protocol.messages import (
    EvaluationMessage,
    FailureMessage,
    FingerprintMessage,
    ModelManifest,
    UpdateManifest,
)
from fedfs.protocol.rounds import Done, Evaluate, Finish, Prepare, PublishFingerprint, Train, Wait
from fedfs.protocol.state import StudyState
from fedfs.publish import Publisher, StatusReporter

log = logging.getLogger(__name__)


class Site:
    """One site of a study.

    Args:
        name: the site's name.
        observer: looks at the store as this site may.
        publisher: signs with the site's key.
        status: tells others what this process does.
        learner: does the work on the site's own data.
        folder: fedfs's own folder for this site: downloaded models, outgoing updates.
    """

    def __init__(
        self,
        name: str,
        *,
        observer: Observer,
        publisher: Publisher,
        status: StatusReporter,
        learner: Learner,
        folder: Path,
    ) -> None:
        self.name = name
        self._observer = observer
        self._publisher = publisher
        self._status = status
        self._learner = learner
        self._folder = folder
        self._prepared = False
        self._loaded: tuple[str, Tensors] = ("", {})

    def step(self) -> Outcome:
        """Do the next thing, if there is one.

        Raises:
            StudyError: this site is not on the roster.
            TrainingError, DatasetError: the work failed; a failure record was published.
            StoreError: the store refuses.
        """
        state = self._observer.refresh()
        self._status.version = state.newest
        self._status.rejected = state.rejected
        action = rounds.decide_site(state, self.name, prepared=self._prepared)
        if isinstance(action, Wait):
            self._status.say("wait", waiting_for=action.reason)
            return Outcome(worked=False, finished=False, text=f"waiting for {action.reason}")
        if isinstance(action, Done):
            self._status.say("finished")
            text = f"finished: version {action.version} is the final model"
            return Outcome(worked=False, finished=True, text=text)
        self._require_known_key(state)
        try:
            text = self._act(action, state)
        except ObjectExistsError as error:
            return self._already_there(error)
        except (TensorError, ObjectNotFoundError) as error:
            return self._unreadable(state, error)
        except (TrainingError, DatasetError) as error:
            self._publish_failure(error, type(action).__name__.lower(), state)
            raise
        log.info("%s", text)
        return Outcome(worked=True, finished=False, text=text)

    def _act(self, action: rounds.SiteAction, state: StudyState) -> str:
        match action:
            case PublishFingerprint():
                return self._fingerprint(state)
            case Prepare():
                return self._prepare(state)
            case Evaluate(version):
                return self._evaluate(version, state, "pseudo")
            case Train(version):
                return self._train(version, state)
            case Finish(version):
                return self._evaluate(version, state, "full")
        raise StudyError(f"a site cannot do {action!r}")

    def _fingerprint(self, state: StudyState) -> str:
        charter = newest_charter(state)
        self._status.say("fingerprint")
        fingerprint = self._learner.fingerprint(self._status.progress)
        if fingerprint.n_cases < charter.minimum_cases:
            raise DatasetError(
                f"this site has {fingerprint.n_cases} cases; the charter asks for at least "
                f"{charter.minimum_cases} before a fingerprint may be published",
                hint="talk to the coordinator",
            )
        self._publisher.message(
            FingerprintMessage,
            layout.fingerprint(self.name),
            site=self.name,
            n_cases=fingerprint.n_cases,
            channels=fingerprint.channels,
            geometry=fingerprint.geometry,
        )
        return f"published the fingerprint of {fingerprint.n_cases} cases"

    def _prepare(self, state: StudyState) -> str:
        if state.plan is None:
            raise StudyError("there is no plan to adopt")
        self._status.say("prepare")
        self._learner.prepare(state.plan.plans, state.plan.fingerprint, self._status.progress)
        self._prepared = True
        return "adopted the federated plan, data are preprocessed"

    def _evaluate(self, version: int, state: StudyState, variant: str) -> str:
        self._status.say("evaluate" if variant == "pseudo" else "final validation")
        task, tensors = self._task(version, state), self._tensors(state.models[version])
        if variant == "pseudo":
            result = self._learner.evaluate(task, tensors, self._status.progress)
        else:
            result = self._learner.finish(task, tensors, self._status.progress)
        self._publisher.message(
            EvaluationMessage,
            layout.evaluation(self.name, version, variant),
            site=self.name,
            version=version,
            variant=variant,
            n_cases=result.n_cases,
            mean_dice=result.mean_dice,
            classes=result.classes,
            loss=result.loss,
            seconds=result.seconds,
        )
        name = "evaluated" if variant == "pseudo" else "validated in full"
        return f"{name} version {version}: {_dice(result)}"

    def _train(self, version: int, state: StudyState) -> str:
        charter, model = newest_charter(state), state.models[version]
        task, tensors = self._task(version, state), self._tensors(model)
        self._status.say("train")
        result = self._learner.train(task, tensors, self._status.progress)
        self._report_transfer("upload")
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            path = Path(folder) / "update.safetensors"
            self._encode(result.tensors, tensors, version, state, path)
            ref = self._publisher.payload(
                path, lambda sha256: layout.update_payload(self.name, version, sha256)
            )
        self._publisher.message(
            UpdateManifest,
            layout.update(self.name, version),
            site=self.name,
            base_version=version,
            base_weights_sha256=model.weights_sha256,
            payload=ref,
            encoding=charter.encoding.name,
            n_training_cases=result.n_training_cases,
            n_epochs=result.n_epochs,
            n_iterations=result.n_iterations,
            n_planned_iterations=task.n_epochs * task.iterations_per_epoch,
            metrics=dict(result.metrics),
            seconds=dict(result.seconds),
        )
        return f"published the update from version {version} ({result.n_iterations} iterations)"

    def _encode(
        self, trained: Tensors, base: Tensors, version: int, state: StudyState, path: Path
    ) -> None:
        """Write an encoded update; keep what a lossy encoding did not carry, for the next one.

        The residual that goes in is that of the last update that was published, so that encoding
        again after a crash gives the same payload, and nothing is lost with an update that was not.
        """
        spec = newest_charter(state).encoding
        encoding = encodings.by_name(spec.name, spec.options)
        files = {int(p.stem.partition("-")[2]): p for p in self._folder.glob("residual-*")}
        published = [n for n in files if n < version and (self.name, n) in state.updates]
        before = max(published, default=None)
        residual = {} if before is None else self._residual(files[before])
        try:
            encoded = {
                name: encoding.encode(name, trained[name], values, residual.get(name))
                for name, values in base.items()
            }
        except TensorError as error:
            raise TrainingError(
                f"the trained weights cannot be sent: {error}", kind="not-finite"
            ) from error
        left = {n: e.residual for n, e in encoded.items() if e.residual is not None}
        if left:
            write_safetensors(self._folder / f"residual-{version:05d}.safetensors", left)
        for number, old in files.items():
            if number not in (before, version):
                old.unlink()
        parts = encodings.payload_layout(encoding, {n: b.shape for n, b in base.items()})
        write_safetensors(
            path,
            {key: array for e in encoded.values() for key, array in e.payload.items()},
            dtypes={key: dtype for key, (dtype, _) in parts.items()},
        )

    def _residual(self, path: Path) -> Tensors:
        try:
            with TensorFile(path) as file:
                return {name: file.read(name) for name in file.names}
        except TensorError as error:
            log.warning("started without the residual of the last update: %s %s", path, error)
            return {}

    def _task(self, version: int, state: StudyState) -> RoundTask:
        schedule = newest_charter(state).schedule
        return RoundTask(
            version=version,
            weights_sha256=state.models[version].weights_sha256,
            first_epoch=version * schedule.local_epochs,
            n_epochs=schedule.local_epochs,
            total_epochs=schedule.rounds * schedule.local_epochs,
            iterations_per_epoch=schedule.iterations_per_epoch,
            val_iterations_per_epoch=schedule.val_iterations_per_epoch,
        )

    def _tensors(self, model: ModelManifest) -> Tensors:
        if self._loaded[0] == model.weights_sha256:  # evaluated, now to be trained from
            return self._loaded[1]
        self._report_transfer("download")
        cache = self._folder / "models"
        path = fetch_payload(self._publisher.store, model.payload, cache, max_bytes=MAX_MODEL_BYTES)
        prune_cache(cache, [model.payload.sha256])
        with TensorFile(path) as file:
            tensors = {name: file.read(name) for name in file.names}
        if weights_sha256(tensors) != model.weights_sha256:
            raise TensorError(f"the weights of version {model.version} are not those signed for")
        self._loaded = (model.weights_sha256, tensors)
        return tensors

    def _report_transfer(self, direction: str) -> None:
        self._status.progress(Progress(step=direction, done=0, total=0, unit="bytes"))

    def _publish_failure(self, error: FedfsError, step: str, state: StudyState) -> None:
        """Tell the others that it failed, in words that name no case and no path."""
        kind = getattr(error, "kind", "dataset")
        version = max(state.newest, 0)
        prefix = layout.failure(self.name, version, 0).rpartition("-")[0]
        number = 1 + sum(key.startswith(prefix) for key in self._observer.keys)
        self._status.say("failed", error=f"{step}: {kind}")
        try:
            self._publisher.message(
                FailureMessage,
                layout.failure(self.name, version, number),
                site=self.name,
                version=version,
                step=step,
                kind=kind,
                message=f"{step} failed at {self.name}: {kind}",
            )
        except StoreError as refused:
            log.warning("could not publish the failure record: %s", refused)

    def _already_there(self, error: ObjectExistsError) -> Outcome:
        """A second process of this site was faster, or somebody put something there."""
        self._observer.refuse_foreign(error, writer="this site")
        return Outcome(worked=True, finished=False, text="another process of this site was faster")

    def _unreadable(self, state: StudyState, error: FedfsError) -> Outcome:
        """The newest model is damaged or not there yet: wait until somebody restores it."""
        reason = f"version {state.newest} to be restored on the store: {error}"
        log.warning("waiting for %s", reason)
        self._status.say("wait", waiting_for=reason, error=str(error))
        return Outcome(worked=False, finished=False, text=f"waiting for {reason}")

    def _require_known_key(self, state: StudyState) -> None:
        entry = newest_charter(state).entry(self.name)
        if entry is not None and entry.public_key != self._publisher.public_key:
            raise StudyError(
                f"the roster has another key for site {self.name!r} than this host",
                hint="is this the host that joined? compare with: fedfs status STORE",
            )


def _dice(result: EvaluationResult) -> str:
    mean = result.mean_dice
    return "no class occurs" if mean is None else f"mean Dice {mean:.4f}"
