#!/bin/sh
# What a container runs: a command of trtllm-ext (serve, run, build ...) or any other program, as one process or as
# several ranks:
#
#   entrypoint.sh [--nproc N] COMMAND [ARGUMENT ...]
#
# The number of ranks is --nproc, or TRTLLM_EXT_NPROC, or 1. Everything ends in `exec`, so that a signal reaches the
# program itself.
set -eu

wrong() {
    echo "entrypoint: $1" >&2
    exit 2
}

nproc=${TRTLLM_EXT_NPROC:-1}
case ${1:-} in
    --nproc=*)
        nproc=${1#--nproc=}
        shift
        ;;
    --nproc)
        [ $# -ge 2 ] || wrong "--nproc needs a number of ranks: --nproc 2 COMMAND ..."
        nproc=$2
        shift 2
        ;;
esac
case $nproc in
    '' | *[!0-9]* | 0*) wrong "'$nproc' is no number of ranks (--nproc, TRTLLM_EXT_NPROC); give 1 or more" ;;
esac

# Open MPI's launcher refuses root, who in a container is nobody that it would have to be protected from.
if [ "$(id -u)" -eq 0 ]; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi

# As many ranks of the program in $1, through the launcher that --nproc of trtllm-ext's commands uses too: it works for
# MPICH and Open MPI, hands signals on, and tells which rank failed.
as_ranks() {
    exec python3 -c 'import sys
from trtllm_ext.parallel.launch import launch
sys.exit(launch(int(sys.argv[1]), sys.argv[3:], program=sys.argv[2:3]))' "$nproc" "$@"
}

[ "${1:-}" != trtllm-ext ] || shift
[ $# -gt 0 ] || set -- --help
case $1 in
    # These start their ranks themselves.
    embed | run | serve)
        given=no
        for word in "$@"; do
            case $word in
                --nproc | --nproc=*) given=yes ;;
            esac
        done
        [ "$nproc" -eq 1 ] || [ "$given" = yes ] || set -- "$@" --nproc "$nproc"
        ;;
    # Its ranks share out the engines that there are to build.
    build)
        [ "$nproc" -eq 1 ] || as_ranks trtllm-ext "$@"
        ;;
    # One process does the work of all ranks.
    -* | convert | doctor | export | inspect | refit | stream | verify) ;;
    # A shell is for people, of whom there is one.
    bash | sh | */bash | */sh)
        exec "$@"
        ;;
    *)
        [ "$nproc" -eq 1 ] || as_ranks "$@"
        exec "$@"
        ;;
esac
exec trtllm-ext "$@"
