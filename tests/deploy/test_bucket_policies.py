"""The bucket policies of deploy/s3 on a real Ceph gateway: who may do what, cell by cell.

The table that is proved is the one in ``deploy/s3/README.md``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import re
import sys
import uuid
from pathlib import Path

import pytest
import s3fs
from click.testing import CliRunner

from fedfs.cli import fedfs as cli
from support.federation import Federation

DEPLOY = Path(__file__).parents[2] / "deploy"
BUCKET, PREFIX = f"hospitals-{uuid.uuid4().hex[:8]}", "studies/organ/"
ROLES = ("coordinator", "aggregator", "north", "east", "reader", "helper")
SHA = "0" * 64

# Row of the table: a key of that kind, with a number that makes it new; who wrote it.
AREAS = {
    "`federation/`": ("federation/charter-{:04d}.json", "coordinator"),
    "`aggregator/`": ("aggregator/plan-{:04d}.json", "aggregator"),
    "`sites/north/`": ("sites/north/join-{:04d}.json", "north"),
    "`sites/east/`": ("sites/east/join-{:04d}.json", "east"),
    "`tracks/*/aggregator/`": ("tracks/2d-0/aggregator/rounds/{:05d}.json", "aggregator"),
    "`tracks/*/sites/north/`": ("tracks/2d-0/sites/north/status/{:08d}.json", "north"),
    "`tracks/*/sites/north/updates/*/*.safetensors`": (
        f"tracks/2d-0/sites/north/updates/{{:05d}}/update-{SHA}.safetensors",
        "north",
    ),
    "`tracks/*/sites/north/updates/*/manifest.json`": (
        "tracks/2d-0/sites/north/updates/{:05d}/manifest.json",
        "north",
    ),
    "`tracks/*/sites/north/evaluations/`": (
        "tracks/2d-0/sites/north/evaluations/{:05d}-pseudo.json",
        "north",
    ),
    "`tracks/*/sites/north/model/`": (
        f"tracks/2d-0/sites/north/model/model-{SHA}-{{:05d}}",
        "north",
    ),
    "`tracks/*/sites/east/`": ("tracks/2d-0/sites/east/status/{:08d}.json", "east"),
    "`tracks/*/sites/east/updates/*/*.safetensors`": (
        f"tracks/2d-0/sites/east/updates/{{:05d}}/update-{SHA}.safetensors",
        "east",
    ),
    "`helper/`": ("helper/join-{:04d}.json", "helper"),
    "`tracks/*/helper/`": (f"tracks/2d-0/helper/sums/{{:05d}}/sum-{SHA}.safetensors", "helper"),
}
OTHER_SITES = (
    "sites/north-2/join-{:04d}.json",
    "sites/nort/join-{:04d}.json",
    "tracks/2d-0/sites/north-2/status/{:08d}.json",
    "tracks/2d-0/sites/nort/status/{:08d}.json",
)
ELSEWHERE = (
    "sitesx/north/{:08d}.json",
    "aggregator-2/rounds/{:05d}.json",
    "tracks/2d-0/federation/charter-{:04d}.json",
    "federation-2/charter-{:04d}.json",
    "../other/federation/charter-{:04d}.json",
    "../../federation/charter-{:04d}.json",
)
VERBS = ("list", "get", "put", "delete")
_numbers = itertools.count(1)


def make_bucket():
    """The script that ``fedfs deploy print s3-policy -o DIR`` writes beside the policy."""
    path = DEPLOY / "s3" / "make_bucket.py"
    spec = importlib.util.spec_from_file_location("make_bucket", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def documented():
    """Row -> role -> verbs, of the README's table."""
    lines = (DEPLOY / "s3" / "README.md").read_text().splitlines()
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in lines if line[:1] == "|"]
    header, table = rows[0], rows[2:]
    names = [re.sub(r"site|`| ", "", name) for name in header[1:]]
    assert tuple(names) == ROLES
    return {row[0]: dict(zip(names, map(str.split, row[1:]), strict=True)) for row in table}


class Bucket:
    """The bucket with its policy, and a user for each role."""

    def __init__(self, ceph):
        self.endpoint = ceph.endpoint
        self.credentials = {}
        for name in (*ROLES, "owner", "stranger"):
            self.credentials[name] = ceph.add_user(f"policies-{name}")
        self._clients = {}

    def set_policy(self, tmp_path, monkeypatch, *more):
        """Make bucket, policy and rule as a hospital would."""
        arguments = ["deploy", "print", "s3-policy", "--bucket", BUCKET, "--prefix", PREFIX]
        roles = [f"--{r}=arn:aws:iam:::user/policies-{r}" for r in ROLES[:2] + ROLES[4:]]
        for site in ("north", "east"):
            roles += ["--sites", f"{site}=arn:aws:iam:::user/policies-{site}"]
        for file, options in (("policy.json", [*roles, *more]), ("rule.json", ["--lifecycle"])):
            done = CliRunner().invoke(cli, arguments + options, catch_exceptions=False)
            (tmp_path / file).write_text(done.output)
        monkeypatch.setenv("AWS_ENDPOINT_URL", self.endpoint)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", self.credentials["owner"].access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", self.credentials["owner"].secret_key)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3fs.S3FileSystem.clear_instance_cache()
        files = ["--policy", tmp_path / "policy.json", "--lifecycle", tmp_path / "rule.json"]
        assert make_bucket().main(["--bucket", BUCKET, *map(str, files)]) == 0

    def call(self, who, method, **arguments):
        if who not in self._clients:
            mine = self.credentials.get(who)
            self._clients[who] = s3fs.S3FileSystem(
                key=mine and mine.access_key,
                secret=mine and mine.secret_key,
                anon=mine is None,
                client_kwargs={"endpoint_url": self.endpoint, "region_name": "us-east-1"},
                use_listings_cache=False,
                skip_instance_cache=True,
            )
        return self._clients[who].call_s3(method, Bucket=BUCKET, **arguments)

    def may(self, who, method, **arguments):
        """Whether a request is allowed; any failure but a 403 is an error."""
        try:
            self.call(who, method, **arguments)
        except PermissionError:
            return False
        return True

    def seed(self, template, writer):
        key = full(template.format(next(_numbers)))
        self.call(writer, "put_object", Key=key, Body=b"seed")
        return key

    # One method for each verb of the table. Each answers for all that the verb stands for, or
    # fails because the parts do not agree.

    def list(self, who, template, writer):
        self.seed(template, writer)
        folder = full(template).partition("{")[0].rpartition("/")[0] + "/"
        parents = [folder]
        area = re.match(
            rf"{PREFIX}(tracks/[^/]+/)?(sites/[^/]+/model/|sites/[^/]+/|[^/]+/)", folder
        )
        if area and not re.search("/(updates|evaluations)/", folder):  # of a site, for the helper
            parents.append(area.group())
        answers = {
            self.may(who, "list_objects_v2", Prefix=prefix, MaxKeys=2, **after)
            for prefix in parents
            for after in ({}, {"StartAfter": f"{prefix}5"})
        }
        assert len(answers) == 1
        return answers.pop()

    def get(self, who, template, writer):
        key = self.seed(template, writer)
        answers = {
            self.may(who, "get_object", Key=key),
            self.may(who, "get_object", Key=key, Range="bytes=1-2"),
            self.may(who, "head_object", Key=key),
        }
        assert len(answers) == 1
        return answers.pop()

    def put(self, who, template, _writer):
        key = full(template.format(next(_numbers)))
        answers = {self.may(who, "put_object", Key=key, Body=b"one", IfNoneMatch="*")}
        big = full(template.format(next(_numbers)))
        try:
            upload = self.call(who, "create_multipart_upload", Key=big)["UploadId"]
        except PermissionError:
            answers.add(False)  # noqa: FBT003
        else:
            answers.add(True)  # noqa: FBT003
            self._multipart(who, big, upload)
        assert len(answers) == 1
        if True in answers:
            with pytest.raises(OSError) as caught:  # noqa: PT011  412, which s3fs does not know
                self.call(who, "put_object", Key=key, Body=b"two", IfNoneMatch="*")
            assert not isinstance(caught.value, PermissionError)
            assert self.body(who, key) == b"one"
        return answers.pop()

    def _multipart(self, who, key, upload):
        given = {"Key": key, "UploadId": upload}
        part = self.call(who, "upload_part", **given, PartNumber=1, Body=b"x" * 100)
        assert len(self.call(who, "list_parts", **given)["Parts"]) == 1
        parts = {"Parts": [{"ETag": part["ETag"], "PartNumber": 1}]}
        self.call(who, "complete_multipart_upload", **given, MultipartUpload=parts)
        given["UploadId"] = self.call(who, "create_multipart_upload", Key=key)["UploadId"]
        self.call(who, "upload_part", **given, PartNumber=1, Body=b"y")
        self.call(who, "abort_multipart_upload", **given)

    def delete(self, who, template, writer):
        key = self.seed(template, writer)
        allowed = self.may(who, "delete_object", Key=key)
        listed = self.call("owner", "list_objects_v2", Prefix=key.rpartition("/")[0] + "/")
        assert (key in [entry["Key"] for entry in listed.get("Contents", [])]) is not allowed
        return allowed

    def body(self, who, key):
        fs = self._clients[who]
        return fs.cat_file(f"{BUCKET}/{key}")


def full(key):
    """The key in the bucket; ``..`` leads out of the prefix."""
    folder = PREFIX.rstrip("/").split("/")
    while key.startswith("../"):
        key = key.removeprefix("../")
        folder.pop()
    return "/".join([*folder, key])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return tmp_path_factory.mktemp("policies")


_made = {}


@pytest.fixture
def bucket(ceph, files, monkeypatch):
    if ceph.endpoint not in _made:
        made = Bucket(ceph)
        made.set_policy(files, monkeypatch)
        _made[ceph.endpoint] = made
    return _made[ceph.endpoint]


pytestmark = pytest.mark.xdist_group("ceph")


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("role", ROLES)
def test_a_role_may_do_what_the_table_says_and_nothing_else(bucket, role, verb):
    said = documented()
    for area, (template, writer) in AREAS.items():
        allowed = getattr(bucket, verb)(role, template, writer)
        assert allowed is (verb in said[area][role]), f"{role} {verb} {area}"
    for template in ELSEWHERE + OTHER_SITES * (role in ("north", "east")):
        assert not getattr(bucket, verb)(role, template, "owner"), f"{role} {verb} {template}"


def test_the_table_speaks_of_every_area():
    said = documented()
    assert set(said) == {*AREAS, "anything else"}
    assert all(verbs == [] for verbs in said["anything else"].values())
    assert {v for row in said.values() for verbs in row.values() for v in verbs} == set(VERBS)


@pytest.mark.parametrize("who", ["stranger", "nobody"])
@pytest.mark.parametrize("verb", VERBS)
def test_users_without_a_role_and_without_a_name_may_do_nothing(bucket, who, verb):
    for template, writer in AREAS.values():
        assert not getattr(bucket, verb)(who, template, writer), f"{who} {verb} {template}"


@pytest.mark.parametrize(
    "prefix",
    ["", PREFIX, "studies/", f"{PREFIX}sites/", f"{PREFIX}sites", f"{PREFIX}sites/nor",
     f"{PREFIX}sites/north", f"{PREFIX}sites/north-2/", f"{PREFIX}federation", "studies/other/"],
)  # fmt: skip
def test_a_site_lists_nothing_but_its_own_folder_and_the_common_ones(bucket, prefix):
    assert not bucket.may("north", "list_objects_v2", Prefix=prefix)
    assert not bucket.may("north", "list_objects", Prefix=prefix)
    assert not bucket.may("north", "list_objects_v2", Prefix=prefix, Delimiter="/")
    assert not bucket.may("north", "list_object_versions", Prefix=prefix)
    assert not bucket.may("north", "list_objects_v2", Prefix=prefix, StartAfter=f"{PREFIX}sites/e")


@pytest.mark.parametrize("role", ["north", "aggregator", "coordinator", "reader"])
def test_nobody_lists_the_bucket_from_its_root(bucket, role):
    for prefix in ("", "studies/", PREFIX):
        assert not bucket.may(role, "list_objects_v2", Prefix=prefix)
    assert not bucket.may(role, "list_objects_v2")
    assert not bucket.may(role, "head_bucket")


def test_polling_with_start_after_gives_what_is_behind_in_pages(bucket):
    keys = [f"{PREFIX}sites/east/failures/00001-{n:04d}.json" for n in range(1, 6)]
    for key in keys:
        bucket.call("east", "put_object", Key=key, Body=b"x")
    arguments = {"Prefix": f"{PREFIX}sites/east/failures/", "MaxKeys": 2, "StartAfter": keys[1]}
    found, page = [], {}
    while not found or page["IsTruncated"]:
        page = bucket.call("east", "list_objects_v2", **arguments)
        found += [entry["Key"] for entry in page["Contents"]]
        arguments["ContinuationToken"] = page.get("NextContinuationToken")
    assert found == keys[2:]


def test_a_key_that_is_not_there_is_forbidden_not_missing(bucket):
    key = f"{PREFIX}sites/north/join-9999.json"
    assert not bucket.may("north", "head_object", Key=key)
    assert not bucket.may("north", "get_object", Key=key)
    listed = bucket.call("north", "list_objects_v2", Prefix=f"{PREFIX}sites/north/join-9999/")
    assert "Contents" not in listed


RULE = {"Rules": [{"ID": "x", "Status": "Enabled", "Prefix": "", "Expiration": {"Days": 1}}]}
OPEN = {"Version": "2012-10-17", "Statement": [
    {"Effect": "Allow", "Principal": "*", "Action": "s3:*",
     "Resource": [f"arn:aws:s3:::{BUCKET}", f"arn:aws:s3:::{BUCKET}/*"]}]}  # fmt: skip


@pytest.mark.parametrize("role", [*ROLES, "stranger", "nobody"])
@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("put_bucket_policy", {"Policy": json.dumps(OPEN)}),
        ("delete_bucket_policy", {}),
        ("get_bucket_policy", {}),
        ("put_bucket_acl", {"ACL": "public-read-write"}),
        ("get_bucket_acl", {}),
        ("put_bucket_lifecycle_configuration", {"LifecycleConfiguration": RULE}),
        ("put_bucket_versioning", {"VersioningConfiguration": {"Status": "Enabled"}}),
        ("list_multipart_uploads", {}),
        ("delete_bucket", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_nobody_but_the_owner_touches_the_bucket_itself(bucket, role, method, arguments):
    assert not bucket.may(role, method, **arguments)


def test_a_site_does_not_get_at_another_ones_by_detours(bucket):
    theirs = bucket.seed("sites/east/status/{:08d}.json", "east")
    mine = full(f"sites/north/status/{next(_numbers):08d}.json")
    source = {"Bucket": BUCKET, "Key": theirs}
    assert not bucket.may("north", "copy_object", Key=mine, CopySource=source)
    assert not bucket.may("north", "put_object_acl", Key=theirs, ACL="public-read")
    assert not bucket.may("north", "get_object_acl", Key=theirs)
    upload = bucket.call("east", "create_multipart_upload", Key=theirs)["UploadId"]
    given = {"Key": theirs, "UploadId": upload}
    assert not bucket.may("north", "upload_part", **given, PartNumber=1, Body=b"x")
    assert not bucket.may("north", "list_parts", **given)
    assert not bucket.may("north", "abort_multipart_upload", **given)
    with contextlib.suppress(PermissionError):
        bucket.call("north", "delete_objects", Delete={"Objects": [{"Key": theirs}]})
    assert bucket.body("east", theirs) == b"seed"


def test_the_aggregator_prunes_tensors_but_no_messages_of_sites(bucket):
    payload = bucket.seed(
        f"tracks/2d-0/sites/north/updates/{{:05d}}/update-{SHA}.safetensors", "north"
    )
    manifest = payload.rpartition("/")[0] + "/manifest.json"
    bucket.call("north", "put_object", Key=manifest, Body=b"signed")
    assert bucket.may("aggregator", "delete_object", Key=payload)
    for key in (manifest, bucket.seed("sites/north/join-{:04d}.json", "north")):
        assert not bucket.may("aggregator", "delete_object", Key=key)
    tensors = bucket.seed("federation/pretrained-{:064d}.safetensors", "coordinator")
    assert not bucket.may("aggregator", "delete_object", Key=tensors)


def test_the_lifecycle_rule_is_there(bucket):
    rules = bucket.call("owner", "get_bucket_lifecycle_configuration")["Rules"]
    assert [rule["AbortIncompleteMultipartUpload"] for rule in rules] == [
        {"DaysAfterInitiation": 7}
    ]
    assert rules[0]["Filter"] == {"Prefix": PREFIX}


def test_without_tls_nobody_gets_in_if_the_policy_says_so(bucket, files, monkeypatch):
    template, writer = AREAS["`sites/north/`"]
    key = bucket.seed(template, writer)
    bucket.set_policy(files, monkeypatch, "--tls-only")
    try:
        assert not bucket.may("north", "get_object", Key=key)
        assert not bucket.may("north", "put_object", Key=key + "2", Body=b"x")
        assert not bucket.may("aggregator", "list_objects_v2", Prefix=f"{PREFIX}aggregator/")
    finally:
        bucket.set_policy(files, monkeypatch)  # the owner can still change it
    assert bucket.may("north", "get_object", Key=key)


@pytest.fixture
def second_study(bucket, files, monkeypatch):
    """Prefix of a study of its own, beneath which the policy holds meanwhile."""
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules[__name__], "PREFIX", "studies/second/")
        bucket.set_policy(files, monkeypatch)
        yield "studies/second/"
    bucket.set_policy(files, monkeypatch)


def test_commands_that_read_work_at_a_site(bucket, second_study, tmp_path, monkeypatch):
    federation = Federation(tmp_path, targets={"east": 1.0, "north": 2.0}).start()
    federation.run()
    for key, found in federation.store.objects.items():
        writer = re.search("(?:^|/)(federation|aggregator|sites/[a-z]+)/", f"/{key}")[1]
        who = {"federation": "coordinator"}.get(writer, writer.removeprefix("sites/"))
        bucket.call(who, "put_object", Key=second_study + key, Body=found.data)
    mine = bucket.credentials["north"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", mine.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", mine.secret_key)
    monkeypatch.setenv("FEDFS_HOME", str(federation.home("north")))
    store, page = f"s3://{BUCKET}/{second_study}", str(tmp_path / "report.html")
    for words in (
        ("status", store),
        ("log", store),
        ("verify", store),
        ("report", store, "-o", page),
        ("key", "show", store),
    ):
        done = CliRunner().invoke(cli, words, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        assert "key" in words or "is hidden" in done.output
