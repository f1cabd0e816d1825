"""The manifests for Kubernetes: against its schemas, against each other, against fedfs."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from fedfs.errors import EXIT_NOTHING, EXIT_WAITING
from support.command_lines import understood

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
FILES = sorted(path for path in FOLDER.glob("*.yaml") if path.name != "kustomization.yaml")
VERSIONS = ("1.28", "1.33")
STORE = "s3://bucket/study"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """What the ConfigMap says of the store."""
    monkeypatch.setenv("FEDFS_STORE", STORE)


def documents(*paths: Path) -> list[dict]:
    return [one for path in paths for one in yaml.safe_load_all(path.read_text())]


def pod_of(document: dict) -> dict | None:
    """Return the pod that a document describes."""
    spec = document.get("spec", {})
    if document["kind"] == "Pod":
        return spec
    if document["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    return spec["template"]["spec"] if "template" in spec else None


PODS = {d["metadata"]["name"] + " " + d["kind"]: pod_of(d) for d in documents(*FILES) if pod_of(d)}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_kubernetes_takes_the_file(path, version):
    for document in documents(path):
        kubernetes_validate.validate(document, version, strict=True)


def test_the_check_finds_a_wrong_field():
    (document,) = documents(FOLDER / "site-cronjob.yaml")
    document["spec"]["jobTemplate"]["spec"]["backofLimit"] = 0
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, VERSIONS[0], strict=True)


@pytest.mark.parametrize("name", PODS)
def test_a_pod_may_do_no_more_than_it_has_to(name):
    pod = PODS[name]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in pod["volumes"]}
    assert mounts["credentials"]["readOnly"]
    assert mounts.get("images", {"readOnly": True})["readOnly"]
    (secret,) = [volume["secret"] for volume in pod["volumes"] if "secret" in volume]
    assert secret["secretName"] in name


def test_pods_of_one_role_differ_in_nothing_but_what_they_run():
    def rest(pod: dict) -> dict:
        (container,) = pod["containers"]
        container = {k: v for k, v in container.items() if k not in ("command", "args")}
        outer = ("containers", "restartPolicy", "terminationGracePeriodSeconds")
        return {k: v for k, v in pod.items() if k not in outer} | {"container": container}

    by_role: dict[str, list[dict]] = {}
    for name, pod in PODS.items():
        by_role.setdefault(name.split()[0].removesuffix("-shell"), []).append(rest(pod))
    assert {role: len(pods) for role, pods in by_role.items()} == {
        "fedfs-north": 3,
        "fedfs-aggregator": 2,
    }
    for pods in by_role.values():
        assert all(pod == pods[0] for pod in pods)


def test_services_run_commands_that_fedfs_understands():
    for name in ("fedfs-north Deployment", "fedfs-aggregator Deployment"):
        args = PODS[name]["containers"][0]["args"]
        params = understood(args)
        assert params["store"] == STORE
        assert params["once"] is False
    lines = re.findall(r"-- fedfs (.*)", (FOLDER / "site-shell.yaml").read_text())
    assert len(lines) == 2
    for line in lines:
        assert understood(line.split())["store"] == STORE


def test_one_at_a_time():
    for document in documents(*FILES):
        if document["kind"] == "Deployment":
            assert document["spec"]["replicas"] == 1
            assert document["spec"]["strategy"] == {"type": "Recreate"}
            labels = document["spec"]["template"]["metadata"]["labels"]
            assert document["spec"]["selector"]["matchLabels"] == labels
        if document["kind"] == "CronJob":
            assert document["spec"]["concurrencyPolicy"] == "Forbid"
            assert document["spec"]["jobTemplate"]["spec"]["backoffLimit"] == 0


@pytest.mark.parametrize("name", ["fedfs-north CronJob", "fedfs-aggregator CronJob"])
@pytest.mark.parametrize(
    ("code", "ends_with"), [(0, 0), (EXIT_WAITING, 0), (EXIT_NOTHING, 0), (4, 4), (7, 7)]
)
def test_a_job_that_waits_for_others_has_not_failed(tmp_path, name, code, ends_with):
    """Run what the job runs, where fedfs ends with a code."""
    fake = tmp_path / "fedfs"
    fake.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\nexit {code}\n')
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    (container,) = PODS[name]["containers"]
    done = subprocess.run(
        [*container["command"], *container["args"]],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        check=False,
    )
    assert done.returncode == ends_with
    (call,) = (tmp_path / "calls").read_text().splitlines()
    params = understood(call.split())
    assert params["once"] is True
    assert params["store"] == STORE


def test_the_kustomization_names_files_that_are_there():
    text = (FOLDER / "kustomization.yaml").read_text()
    named = re.findall(r"^  (?:# )?- ([\w-]+\.yaml)", text, re.MULTILINE)
    assert {*named, "site-shell.yaml"} == {path.name for path in FILES}


@pytest.mark.skipif(not shutil.which("kubectl"), reason="no kubectl on this machine")
def test_kubectl_puts_it_together():
    command = ["kubectl", "kustomize", str(FOLDER)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    kinds = [one["kind"] for one in yaml.safe_load_all(done.stdout)]
    assert sorted(kinds) == ["ConfigMap", "Deployment", "NetworkPolicy", "PersistentVolumeClaim"]
    assert "image: registry.hospital.example/fedfs:0.1.0" in done.stdout
