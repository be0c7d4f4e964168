#!/bin/sh
# Sentences to vectors by a server: an encoder's engine served, asked over HTTP and gRPC, and ended.
#
#   sh examples/serve_sentences.sh [ENGINE_DIR [SENTENCES [FLAGS OF SERVE ...]]]     (`make demo` makes demo-output/engine)
#
# The server takes pip install -c constraints.txt '.[serve]' tokenizers, which make demo's environment has a part of.
# For an engine of two ranks: sh examples/serve_sentences.sh ENGINE_DIR examples/sentences.txt --nproc 2
set -eu

here=$(dirname "$0")
engine=${1:-demo-output/engine}
sentences=${2:-$here/sentences.txt}
[ $# -lt 2 ] || shift
[ $# -lt 1 ] || shift

said=$(mktemp)
server=
trap '[ -z "$server" ] || kill "$server" 2> /dev/null || true; rm -f "$said"' EXIT

step() {
    echo
    echo "\$ $*"
    "$@"
}

# Ports that are free: the line that the server prints has them.
echo "\$ trtllm-ext serve --engine_dir $engine --model_name sentences --input text $*"
trtllm-ext serve --engine_dir "$engine" --model_name sentences --input text --http_port 0 --grpc_port 0 --metrics_port 0 "$@" > "$said" &
server=$!
until grep -q '^serving' "$said"; do
    kill -0 "$server" 2> /dev/null || { server=; exit 1; }
    sleep 0.2
done
cat "$said"
http=$(sed -n 's/.*HTTP on \([^,]*\),.*/\1/p' "$said")
grpc=$(sed -n 's/.*gRPC on \([^,]*\),.*/\1/p' "$said")

step python "$here/similar_sentences.py" "$sentences" --model sentences --http "$http"
if python -c 'import tritonclient.grpc' 2> /dev/null; then
    step python "$here/similar_sentences.py" "$sentences" --model sentences --grpc "$grpc"
fi

echo
kill -TERM "$server"
code=0
wait "$server" || code=$?
server=
echo "the server has ended with exit code $code"
exit "$code"
