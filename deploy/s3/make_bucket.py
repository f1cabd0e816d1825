"""Make the bucket of a study; put a policy and a lifecycle rule on it, if given.

    python make_bucket.py --bucket B --policy policy.json --lifecycle lifecycle.json

For whoever owns the bucket, where no other S3 tool is at hand: it needs what fedfs itself needs.
On AWS make the bucket with AWS's own tools, which know regions.
Credentials, endpoint and certificates are taken from the usual variables (``AWS_ACCESS_KEY_ID``,
``AWS_ENDPOINT_URL``, ``AWS_CA_BUNDLE``, ...). May be run again: a bucket that is there stays.
"""
# ruff: noqa: INP001  a script, not part of a package

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path

import s3fs


def main(arguments: list[str] | None = None) -> int:
    """Do what the arguments say; return the exit code."""
    parser = argparse.ArgumentParser(description="Make the bucket of a fedfs study.")
    parser.add_argument("--bucket", required=True)
    parser.add_argument("--policy", type=Path, help="from fedfs deploy print s3-policy")
    parser.add_argument("--lifecycle", type=Path, help="from the same with --lifecycle")
    chosen = parser.parse_args(arguments)
    try:
        _make(chosen.bucket, policy=chosen.policy, lifecycle=chosen.lifecycle)
    except OSError as error:  # s3fs makes these of what the server says
        print(f"error: {error.__cause__ or error}", file=sys.stderr)  # noqa: T201  same
        return 1
    print(f"bucket {chosen.bucket} is ready")  # noqa: T201  its report
    return 0


def _make(bucket: str, *, policy: Path | None, lifecycle: Path | None) -> None:
    store = s3fs.S3FileSystem(use_listings_cache=False)
    # One that is there already may be ours or somebody else's: the last call tells. No location
    # constraint: servers that are not AWS refuse one they do not know.
    with contextlib.suppress(FileExistsError):
        store.call_s3("create_bucket", Bucket=bucket)
    if policy:
        store.call_s3("put_bucket_policy", Bucket=bucket, Policy=policy.read_text())
    if lifecycle:
        rules = json.loads(lifecycle.read_text())
        store.call_s3(
            "put_bucket_lifecycle_configuration", Bucket=bucket, LifecycleConfiguration=rules
        )
    store.call_s3("get_bucket_location", Bucket=bucket)


if __name__ == "__main__":
    sys.exit(main())
