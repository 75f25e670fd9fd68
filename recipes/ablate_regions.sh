#!/bin/sh
# The ablation over c, the number of regions (paper, section 4.5): one run each, scored on DAVIS 2016.
# sh recipes/ablate_regions.sh CLIPS DAVIS OUT "3 5 8" [options of amd-seg train]
# A run that is there goes on, or is only scored. Below four regions training may be lost.
set -eu
clips=$1 davis=$2 out=$3 counts=$4
shift 4
for regions in $counts; do
    run=$out/regions-$regions
    resume=
    [ -d "$run/checkpoints" ] && resume=--resume
    [ -d "$run/weights" ] || amd-seg train "$clips" --out "$run" --objective photometric \
        --set regions="$regions" $resume "$@" || continue
    score=$(amd-seg evaluate davis2016 "$davis" --weights "$run/weights" --quiet | grep "^J mean")
    echo "$regions regions: $score"
done
