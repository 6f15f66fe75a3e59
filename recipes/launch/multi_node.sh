#!/usr/bin/env bash
# Several machines without a scheduler: run this on each of them, with the same HEAD, NODES and JOB everywhere:
#   HEAD=10.0.0.1:29500 NODES=4 bash recipes/launch/multi_node.sh my.yaml --resume
# The run's folder has to lie on storage that all of them see. The global batch is that of the config, whatever the
# number of machines; a run that lost one goes on with --resume and fewer.
set -euo pipefail
exec torchrun --nnodes "${NODES:?number of machines}" --nproc_per_node "${PROCESSES:-gpu}" \
    --rdzv_backend c10d --rdzv_endpoint "${HEAD:?HOST:PORT of one of them}" --rdzv_id "${JOB:-mmcontrast}" \
    -m mmcontrast train "$@"
