#!/usr/bin/env bash
# What the bucket's owner does before run.sh, who is none of the parties: make the bucket, and let
# each party do only what it has to. deploy/s3/README.md explains the policy, server by server.
#
#   export AWS_ENDPOINT_URL=https://s3.hospital.example AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=...
#   bash bucket.sh BUCKET PREFIX arn:aws:iam:::user/organ-
#
# The last word is what the users coordinator, aggregator, north and east have in common. May be
# given again: the policy is replaced.
set -euo pipefail

bucket=${1:?bucket} prefix=${2:?prefix} user=${3:?"beginning of the users' ARNs"}
made=$(mktemp -d)
trap 'rm -r "$made"' EXIT

fedfs deploy print s3-policy --bucket "$bucket" --prefix "$prefix" -o "$made" \
  --coordinator "${user}coordinator" --aggregator "${user}aggregator" \
  --sites "north=${user}north" --sites "east=${user}east"
python "$made/make_bucket.py" --bucket "$bucket" \
  --policy "$made/policy.json" --lifecycle "$made/lifecycle.json"
