#!/usr/bin/env bash
# One machine, a process for each of its GPUs (or as many as PROCESSES says): any command that trains, and its flags.
#
#     training/launch/torchrun.sh distill --data 'shards/train-{000..099}.tar' --teacher T --student S --out RUN --batch-size 1024
#
# --batch-size is of all processes together, and --workers of each: leave the loading processes their share of the cores.
set -euo pipefail

# Without this torchrun sets one thread and says so; the images are read by processes of their own in any case.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

exec torchrun --standalone --nproc-per-node="${PROCESSES:-gpu}" -m seed_hub.cli "$@"
