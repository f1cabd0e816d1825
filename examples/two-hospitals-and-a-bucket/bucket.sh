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
s3=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../deploy/s3" && pwd)
made=$(mktemp -d)
trap 'rm -r "$made"' EXIT

python "$s3/render.py" --bucket "$bucket" --prefix "$prefix" \
  --coordinator "${user}coordinator" --aggregator "${user}aggregator" \
  --site "north=${user}north" --site "east=${user}east" >"$made/policy.json"
python "$s3/render.py" --bucket "$bucket" --prefix "$prefix" --lifecycle >"$made/lifecycle.json"
python "$s3/make_bucket.py" --bucket "$bucket" \
  --policy "$made/policy.json" --lifecycle "$made/lifecycle.json"
