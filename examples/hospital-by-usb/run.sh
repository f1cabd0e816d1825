#!/usr/bin/env bash
# Two hospitals train one nnU-Net. North mounts the study's folder; south has no network at all, and
# a courier carries a USB stick to and fro.
#
#   bash run.sh [FOLDER]
#
# The three hosts are folders in FOLDER (default: out-usb), each with keys and nnU-Net
# folders of its own; FOLDER/share is the folder that the coordinator and north mount, FOLDER/stick
# the stick. Only what is on the stick ever gets to south and back. Stopped at any moment, the same
# command goes on where it was.
#
# To be set, if the defaults do not suit:
#   DATA          raw dataset with a cases.csv that names sites north and south; default: made up
#   CASES         most images of each hospital
#   ROUNDS, ITERATIONS, FOLD, NET    what is trained; the default net is one for a CPU
#   DEVICE        cpu, cuda or mps
set -euo pipefail

folder=${1:-out-usb}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
dataset=Dataset042_Organ
read -ra net <<<"${NET:---gpu-memory-target 0.02 --planner-option UNet_base_num_features=16 --planner-option UNet_max_features_2d=128}"
mkdir -p "$folder"/{share,stick}
folder=$(cd "$folder" && pwd)
share=$folder/share stick=$folder/stick outpost=$folder/south/store # south's own store, a folder

# What makes a host: its keys and its nnU-Net folders. Inside of ( ... ) below.
host() {
  export FEDFS_HOME=$folder/$1/fedfs nnUNet_raw=$folder/$1/nnUNet_raw \
    nnUNet_preprocessed=$folder/$1/nnUNet_preprocessed nnUNet_results=$folder/$1/nnUNet_results
  # Here the hosts share one machine's processors; a host of one's own leaves these two out.
  export nnUNet_n_proc_DA=0 nnUNet_def_n_proc=1
  mkdir -p "$nnUNet_raw" "$nnUNet_preprocessed" "$nnUNet_results"
}

# What the courier does, who needs no key and can neither read nor change what is on the stick.
# --for: to south; --from: back. Fails if the trip would be for nothing (exit code 10 of the export).
carry() {
  local sender=coordinator source=$share receiver=south target=$outpost code=0
  if [ "$1" = --from ]; then sender=south source=$outpost receiver=coordinator target=$share; fi
  rm -f "$stick/bundle"
  (host $sender && fedfs bundle export "$source" "$1" south -o "$stick/bundle") || code=$?
  case $code in
    0) (host $receiver && fedfs bundle import "$stick/bundle" "$target") || exit ;;
    10) return 10 ;;
    *) exit $code ;;
  esac
}

echo "== Each hospital has its images, in nnU-Net's raw format"
for site in north south; do
  (host $site && python "$here/../images.py" $site "$nnUNet_raw/$dataset" \
    --cases "${CASES:-12}" ${DATA:+--data "$DATA"})
done

echo "== The coordinator starts the study"
# Channels and labels are agreed upon beforehand; here they are copied from a hospital.
if [ ! -e "$share/federation" ]; then
  (host coordinator && fedfs init "$share" --name organ --dataset-name $dataset \
    --dataset-json "$folder/north/nnUNet_raw/$dataset/dataset.json" -c 2d --fold "${FOLD:-0}" \
    --rounds "${ROUNDS:-4}" --local-iterations "${ITERATIONS:-40}" --val-iterations 2 "${net[@]}")
fi

echo "== North asks to join; the stick brings the study to south, and its answer back"
# On the telephone all compare the fingerprints of keys that these commands print.
(host north && fedfs site join "$share" --site north -d $dataset)
carry --for || true
(host south && fedfs site join "$outpost" --site south -d $dataset)
carry --from || true
(host coordinator && fedfs approve "$share" north south)

echo "== North and the aggregator work"
# In reality two services (deploy/systemd), or lines for cron (deploy/cron). The aggregator runs on
# the coordinator's host here, where its key was made.
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
run=(-np 1 ${DEVICE:+--device "$DEVICE"})
(host north && exec fedfs site run "$share" --site north "${run[@]}") &
north=$!
(host coordinator && exec fedfs aggregate "$share") &
aggregator=$!

echo "== The courier comes by, until the aggregator has finished and nothing is left to carry"
# In reality somebody goes once a week. At south, `fedfs site run --once` does all that can be done
# with what has come: by hand, from cron, or as a service that waits for the folder to change.
ended=
while [ -z "$ended" ]; do
  kill -0 $aggregator 2>/dev/null || ended=yes # looked at before the stick is filled, not after
  kill -0 $north 2>/dev/null || wait $north # ends all if it has failed
  if carry --for; then
    ended=
    # 10: nothing to do now; 11: never again. Anything else is an error.
    (host south && fedfs site run "$outpost" --site south "${run[@]}" --once) || [ $? -ge 10 ]
    carry --from || true
  fi
  sleep "${DAY_S:-5}"
done
wait $north
wait $aggregator

echo "== Everybody can look; south has the model in its own nnUNet_results"
(host coordinator && fedfs status "$share")
