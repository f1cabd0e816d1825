#!/usr/bin/env bash
# The comparison of the paper (Skorupko et al. 2025): each hospital alone, all of them federated
# with one plan (ffe) and with a plan each (asym), and all data in one place (central).
#
#   bash run.sh DATA [FOLDER]
#
# DATA is an nnU-Net raw dataset with a cases.csv (columns case,site) that says which hospital a
# case is from: hippocampus of the Medical Segmentation Decathlon divided among three sites, say.
# Every arm is a study of real processes, with the same number of iterations at each site; a quarter
# of each site's cases is kept away from all arms, and predicted by each. What is finished stays in
# FOLDER (default: out-paper): stopped at any moment, the same command goes on.
#
# To be set, if the defaults do not suit. They are those of bench/paper.py, for a CPU; its options
# `-c 3d_fullres --net full` are CONFIGURATION=3d_fullres NET= here, for a GPU.
#   ARMS, SEEDS                e.g. local,local-equal,ffe,personal,central-equal; 1,2,3
#   EXTERNAL                   a site that trains nothing and tests all
#   ROUNDS, ITERATIONS         global versions; iterations of each round at each site
#   CONFIGURATION, NET         nnU-Net's; options of fedfs init for the network, one word each
#   DEVICE, AT_ONCE            cpu, cuda or mps; sites that run at the same time, 0 for all
set -euo pipefail

data=${1:?"give an nnU-Net raw dataset with cases.csv"}
folder=${2:-out-paper}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
net=()
for word in ${NET---gpu-memory-target=0.02 --planner-option=UNet_base_num_features=16 --planner-option=UNet_max_features_2d=128}; do
  net+=(--init "$word")
done
mkdir -p "$folder"

# Progress goes to the terminal, the numbers to a file.
fedfs simulate "$folder" --data "$data" --json \
  --arms "${ARMS:-local,ffe,asym,central}" --seeds "${SEEDS:-1}" ${EXTERNAL:+--external "$EXTERNAL"} \
  -c "${CONFIGURATION:-2d}" --rounds "${ROUNDS:-20}" --local-iterations "${ITERATIONS:-50}" \
  --val-iterations 2 ${DEVICE:+--device "$DEVICE"} --at-once "${AT_ONCE:-0}" "${net[@]}" \
  >"$folder/result.part"
mv "$folder/result.part" "$folder/result.json"
python "$here/gains.py" "$folder/result.json"
