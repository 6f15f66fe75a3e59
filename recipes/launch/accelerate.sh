#!/usr/bin/env bash
# The same by Accelerate: PROCESSES=8 bash recipes/launch/accelerate.sh configs/flickr8k.yaml
# For GPUs only: without one, `accelerate launch --num_processes 2` starts a single process and says nothing.
# Precision and sharding come from the config (training.precision, training.sharding), not from Accelerate's.
set -euo pipefail
exec accelerate launch --multi_gpu --num_machines 1 --num_processes "${PROCESSES:?set it to the number of GPUs}" \
    --mixed_precision no --dynamo_backend no -m mmcontrast train "$@"
