#!/bin/sh
# The paper's tables for some weights: photos, clips per image, clips adapted by eq. 7.
# sh recipes/paper_tables.sh DATA WEIGHTS OUT [options of amd-seg evaluate]
# DATA holds ecssd, duts-tr and davis2016; what is not there is left out. OUT gets a JSON each.
set -eu
data=$1 weights=$2 out=$3
shift 3
mkdir -p "$out"
score() {
    name=$1 set=$2
    shift 2
    [ -d "$data/$set" ] || return 0
    amd-seg evaluate "$set" "$data/$set" --weights "$weights" --json "$out/$name.json" --overwrite "$@"
}
score ecssd ecssd "$@"
score duts-tr duts-tr "$@"
score davis2016 davis2016 "$@"
score davis2016-adapted davis2016 --adapt --objective photometric --blend 1 "$@"
