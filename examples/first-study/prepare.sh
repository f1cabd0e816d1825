#!/usr/bin/env bash
# Make the three computers of a first study, as folders of this one: a coordinator, and the
# hospitals north and south with made-up images. docs/tutorial.md goes on from here.
#
#   bash examples/first-study/prepare.sh FOLDER     # make first-study does it, after installing
#
# FOLDER/on HOST COMMAND runs a command on one of them, as "ssh HOST COMMAND" would.
set -euo pipefail

folder=${1:?"say where: bash prepare.sh FOLDER"}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [ -e "$folder" ]; then echo "$folder is there already; remove it to begin anew" >&2; exit 1; fi
for host in coordinator north south; do
  mkdir -p "$folder/$host"/nnUNet_{raw,preprocessed,results}
done
folder=$(cd "$folder" && pwd)
for site in north south; do
  python "$here/../images.py" $site "$folder/$site/nnUNet_raw/Dataset042_Organ" --cases "${CASES:-8}"
done
cp "$folder/north/nnUNet_raw/Dataset042_Organ/dataset.json" "$folder/coordinator"

cat > "$folder/on" << END
#!/bin/sh
# Run a command on one of the computers: on HOST COMMAND ...
here=$(printf %q "$folder")
host=\$1; shift
cd "\$here/\$host" || exit
export PATH=$(dirname "$(command -v fedfs)"):\$PATH FEDFS_HOME=\$PWD/fedfs FEDFS_STORE=\$here/share
export nnUNet_raw=\$PWD/nnUNet_raw nnUNet_preprocessed=\$PWD/nnUNet_preprocessed
export nnUNet_results=\$PWD/nnUNet_results
[ "\$host" = coordinator ] || export FEDFS_SITE=\$host
# These computers share the processors of one. A hospital's own needs none of this:
export nnUNet_n_proc_DA=0 nnUNet_def_n_proc=1 FEDFS_SITE_RUN_NUM_PROCESSES=1
export OMP_NUM_THREADS=$(((($(nproc) + 1) / 2)))
exec "\$@"
END
chmod +x "$folder/on"

# A network that a CPU trains in seconds; for real images leave these options out.
"$folder/on" coordinator fedfs init --template -c 2d --rounds 3 --local-iterations 20 \
  --val-iterations 2 --gpu-memory-target 0.02 --planner-option UNet_base_num_features=8 \
  --planner-option UNet_max_features_2d=32 > "$folder/study.toml"
mv "$folder/study.toml" "$folder/coordinator"
echo "made $folder: fill in $folder/coordinator/study.toml, then go on with docs/tutorial.md"
