#!/usr/bin/env bash
# Two hospitals train one nnU-Net through an S3 bucket. Nobody opens a port, and no host talks to
# another one: all that they have in common is the bucket.
#
#   export AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=...
#   S3_ENDPOINT=https://s3.hospital.example bash run.sh s3://BUCKET/PREFIX [FOLDER]
#
# Without S3_ENDPOINT it is AWS, or whatever the usual AWS variables and files say.
#
# The four hosts are folders in FOLDER (default: out-bucket), each with keys and nnU-Net folders
# of its own. Stopped at any moment, the same command goes on where it was.
#
# To be set, if the defaults do not suit:
#   DATA          raw dataset with a cases.csv that names sites north and east; default: made up
#   CASES         most images of each hospital
#   ROUNDS, ITERATIONS, FOLD, NET    what is trained; the default net is one for a CPU
#   DEVICE        cpu, cuda or mps
#   PROFILES=yes  each party has credentials of its own: the AWS profiles coordinator, aggregator,
#                 north and east. bucket.sh, beside this file, gives each its rights.
set -euo pipefail

url=${1:?"give the place of the study: s3://BUCKET/PREFIX"}
folder=${2:-out-bucket}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
dataset=Dataset042_Organ
store=("$url" ${S3_ENDPOINT:+--s3-endpoint "$S3_ENDPOINT"})
read -ra net <<<"${NET:---gpu-memory-target 0.02 --planner-option UNet_base_num_features=16 --planner-option UNet_max_features_2d=128}"
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)

# What makes a host: its keys, its nnU-Net folders, its credentials. Inside of ( ... ) below.
host() {
  export FEDFS_HOME=$folder/$1/fedfs nnUNet_raw=$folder/$1/nnUNet_raw \
    nnUNet_preprocessed=$folder/$1/nnUNet_preprocessed nnUNet_results=$folder/$1/nnUNet_results
  # Here the hosts share one machine's processors; a host of one's own leaves these two out.
  export nnUNet_n_proc_DA=0 nnUNet_def_n_proc=1
  mkdir -p "$nnUNet_raw" "$nnUNet_preprocessed" "$nnUNet_results"
  if [ -n "${PROFILES:-}" ]; then export AWS_PROFILE=$1; fi
}

echo "== Each hospital has its images, in nnU-Net's raw format"
for site in north east; do
  (host $site && python "$here/../images.py" $site "$nnUNet_raw/$dataset" \
    --cases "${CASES:-12}" ${DATA:+--data "$DATA"})
done

echo "== The coordinator, a person with a laptop, starts the study"
# Channels and labels are agreed upon beforehand; here they are copied from a hospital.
if [ ! -e "$folder/coordinator/begun" ]; then
  (host coordinator && fedfs init "${store[@]}" --name organ --dataset-name $dataset \
    --dataset-json "$folder/north/nnUNet_raw/$dataset/dataset.json" -c 2d --fold "${FOLD:-0}" \
    --rounds "${ROUNDS:-4}" --local-iterations "${ITERATIONS:-40}" --val-iterations 2 "${net[@]}")
  touch "$folder/coordinator/begun"
fi

echo "== The aggregator runs on a host of its own, with a key that never leaves it"
if [ ! -e "$folder/aggregator/named" ]; then
  [ -e "$folder/aggregator/fedfs" ] || (host aggregator && fedfs key create "${store[@]}" --aggregator)
  # Both lines are read to the coordinator by telephone, or sent by mail.
  { read -r key && read -r encryption_key; } < <(host aggregator &&
    fedfs key export-public "${store[@]}" --aggregator)
  (host coordinator && fedfs key rotate "${store[@]}" --aggregator --yes \
    --to "$key" --encryption-key "$encryption_key")
  touch "$folder/aggregator/named"
fi

echo "== The hospitals ask to join, and the coordinator approves"
# On the telephone all compare the fingerprints of keys that these commands print.
for site in north east; do
  (host $site && fedfs site join "${store[@]}" --site $site -d $dataset)
done
(host coordinator && fedfs approve "${store[@]}" north east)

echo "== All work, until the study is finished"
# In reality three services on three hosts (deploy/systemd), or lines for cron (deploy/cron).
# Each may be stopped and started again at any time.
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
for site in north east; do
  (host $site && exec fedfs site run "${store[@]}" --site $site -np 1 ${DEVICE:+--device "$DEVICE"}) &
done
(host aggregator && exec fedfs aggregate "${store[@]}") &
for _ in north east aggregator; do wait -n; done

echo "== Everybody can look, and the coordinator takes the model"
(host coordinator && fedfs status "${store[@]}" && fedfs export "${store[@]}" -o "$folder/model")
