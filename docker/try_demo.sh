#!/bin/sh
# The image trtllm-ext:demo, as its README has it: started, asked for numbers, stopped.
set -eu

# DOCKER may have words of its own, such as "sudo docker".
# shellcheck disable=SC2086
docker() {
    command ${DOCKER:-docker} "$@"
}

port=${PORT:-8000}
container=$(docker run --rm --detach --publish "127.0.0.1:$port:8000" trtllm-ext:demo)
trap 'docker stop -t 45 "$container" > /dev/null' EXIT

docker exec "$container" trtllm-ext doctor --quick
curl --silent --show-error --retry 60 --retry-delay 1 --retry-all-errors --fail "127.0.0.1:$port/v2/health/ready"
answer=$(curl --silent --show-error --fail-with-body "127.0.0.1:$port/v2/models/minilm/infer" \
    --data '{"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["Hello."]}]}')
echo "$answer" | cut -c 1-400
