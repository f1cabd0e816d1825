"""A study of one site from its images to its model, all of it in this process."""

import dataclasses
from pathlib import Path

from synthetic import Reports, task

from fedfs.aggregation.fingerprints import merge_fingerprints, to_nnunet
from fedfs.learner import EvaluationResult, TrainResult
from fedfs.nnunet import child
from fedfs.nnunet.data.dataset_json import LABEL_ORDER
from fedfs.nnunet.nnunet_learner import NnUNetLearner
from fedfs.nnunet.plan.plans import PlanRequest, WeightsRequest, initial_weights, plan
from fedfs.nnunet.settings import LearnerSettings
from fedfs.nnunet.system.environment import HostSettings
from fedfs.tensors.canonical import TensorFile

SMALL = {"UNet_base_num_features": 4, "UNet_max_features_2d": 8, "UNet_max_features_3d": 8}


@dataclasses.dataclass(frozen=True)
class Life:
    """What became of a study."""

    learner: NnUNetLearner
    plans: dict
    model: Path
    evaluated: EvaluationResult
    trained: TrainResult
    finished: EvaluationResult


def settings(paths, folder, dataset, **changes):
    values = {
        "paths": paths,
        "dataset": dataset,
        "configuration": "2d",
        "trainer": "nnUNetTrainer",
        "fold": "0",
        "state_dir": folder / "state",
        "host": HostSettings(device="cpu", num_processes=1),
    }
    return LearnerSettings(**{**values, **changes})


def live(paths, folder, dataset, charter, *, planner_options=SMALL, change=dict, **options):
    """Measure, plan, prepare, evaluate, train an epoch of two iterations, validate.

    Args:
        paths: nnU-Net's folders.
        folder: for everything else.
        dataset: name of the raw dataset.
        charter: the ``dataset.json`` that the study agreed upon.
        planner_options: of the plan.
        change: given the tensors that were trained, returns those to finish with.
        options: more of :class:`PlanRequest`.
    """
    site = settings(paths, folder, dataset)
    learner = NnUNetLearner(site)
    measured = merge_fingerprints({"site": learner.fingerprint(Reports())})
    fingerprint = to_nnunet(measured)
    request = {
        "dataset_name": "Dataset800_Study",
        "dataset_json": {**charter, LABEL_ORDER: list(charter["labels"])},
        "fingerprint": fingerprint,
        "n_cases": measured.n_cases,
        "configuration": site.configuration,
        "gpu_memory_target_gb": 0.1,
        "planner_options": planner_options,
        "plans_name": "fedfsPlans",
    }
    made = plan(PlanRequest(**{**request, **options}))
    weights = folder / "weights.safetensors"
    initial_weights(
        WeightsRequest(
            plans=made.plans,
            dataset_json=made.dataset_json,
            configuration=site.configuration,
            trainer=site.trainer,
            seed=1,
            output=str(weights),
        )
    )
    with TensorFile(weights) as file:
        tensors = dict(file)
    learner.prepare(made.plans, fingerprint, Reports())
    first = task(0, weights_sha256="0", total_epochs=1, iterations=2)
    evaluated = learner.evaluate(first, tensors, Reports())
    trained = learner.train(first, tensors, Reports())
    last = task(1, weights_sha256="1", first_epoch=1, n_epochs=0, total_epochs=1, iterations=2)
    finished = learner.finish(last, change(trained.tensors), Reports())
    learner.close()
    return Life(learner, made.plans, learner.model_folder(), evaluated, trained, finished)


def in_this_process(function, request, *, workdir, on_progress=lambda progress: None):
    """Stand in for ``run_isolated``, whose processes take seconds."""
    del workdir
    fields = request if isinstance(request, dict) else dataclasses.asdict(request)
    return child.FUNCTIONS[function](fields, on_progress)
