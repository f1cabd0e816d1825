"""What ``fedfs deploy`` prints and writes."""

from __future__ import annotations

import json

from click.testing import CliRunner

from fedfs.cli import fedfs as cli
from fedfs.errors import UserError
from fedfs.roles.deploy.files import KINDS, names_of

POLICY = ("s3-policy", "--bucket", "studies", "--aggregator", "arn:aws:iam:::user/a")


def deploy(*words):
    done = CliRunner().invoke(cli, ["deploy", *map(str, words)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_the_list_and_its_json_have_the_same_files():
    listed = {row["kind"]: row["files"] for row in json.loads(deploy("list", "--json"))}
    assert listed.keys() == {*KINDS, "s3-policy"}
    text = deploy("list")
    assert not [name for names in listed.values() for name in names if name not in text]


def test_several_files_are_told_apart_and_one_is_printed_as_it_is():
    text = deploy("print", "systemd")
    heads = [line.removeprefix("# ---- ") for line in text.splitlines() if line[:6] == "# ----"]
    assert heads == names_of(KINDS["systemd"])
    assert deploy("print", "systemd", "fedfs-site@.service").startswith("# A site as a service")


def test_files_are_written_and_named(tmp_path):
    lines = deploy("print", "cron", "-o", tmp_path / "cron", "--site", "milan").splitlines()
    assert lines == [f"wrote {tmp_path}/cron/{name}" for name in ("fedfs.crontab", "fedfs.env")]
    (row,) = json.loads(deploy("print", "slurm", "fedfs-site.sbatch", "--json"))
    assert row["text"].startswith("#!/bin/bash\n")


def test_a_policy_is_json_and_has_its_rule_and_its_script_beside_it(tmp_path):
    assert json.loads(deploy("print", *POLICY))["Statement"]
    assert json.loads(deploy("print", *POLICY, "--lifecycle"))["Rules"]
    rows = json.loads(deploy("print", *POLICY, "-o", tmp_path, "--json"))
    assert [row["file"] for row in rows] == ["policy.json", "lifecycle.json", "make_bucket.py"]
    compile((tmp_path / "make_bucket.py").read_text(), "make_bucket.py", "exec")


def test_a_site_without_a_user_is_a_fault_of_the_command_line():
    done = CliRunner().invoke(cli, ["deploy", "print", *POLICY, "--sites", "north"])
    assert done.exit_code == 2
    assert "'north' is not NAME=ARN" in done.output


def test_a_file_that_a_kind_does_not_have_is_named():
    done = CliRunner().invoke(cli, ["deploy", "print", "cron", "fedfs.service"])
    assert isinstance(done.exception, UserError)
    assert "fedfs.crontab" in done.exception.hint
