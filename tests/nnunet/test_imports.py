"""The light half of the room must not drag in the heavy one."""

import subprocess
import sys

import pytest

LIGHT = [
    "fedfs.nnunet",
    "fedfs.nnunet.allowed.allowlist",
    "fedfs.nnunet.child",
    "fedfs.nnunet.child_round",
    "fedfs.nnunet.allowed.classes",
    "fedfs.nnunet.data.dataset",
    "fedfs.nnunet.system.environment",
    "fedfs.nnunet.score.model_export",
    "fedfs.nnunet.data.fingerprint",
    "fedfs.nnunet.nnunet_learner",
    "fedfs.nnunet.plan.overlay",
    "fedfs.nnunet.plan.own_plan",
    "fedfs.nnunet.plan.plans",
    "fedfs.nnunet.score.predict",
    "fedfs.nnunet.system.isolated",
    "fedfs.nnunet.train.ranks",
    "fedfs.nnunet.settings",
    "fedfs.nnunet.train.parallel",
    "fedfs.nnunet.plan.published",
    "fedfs.nnunet.score.summary",
]


@pytest.mark.parametrize("heavy", ["torch", "nnunetv2"])
def test_importing_imports_neither_torch_nor_nnunetv2(heavy):
    code = f"import sys, {', '.join(LIGHT)}; sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
