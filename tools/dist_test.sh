#!/usr/bin/env bash
# Evaluate on several processes: tools/dist_test.sh CONFIG CHECKPOINT PROCESSES [arguments of tools/test.py]
# Without GPUs the processes talk through gloo.
set -eu
if [ $# -lt 3 ]; then echo "usage: $0 CONFIG CHECKPOINT PROCESSES [arguments of tools/test.py]" >&2; exit 2; fi
CONFIG=$1 CHECKPOINT=$2 PROCESSES=$3
shift 3
"${PYTHON:-python}" -m torch.distributed.run \
  --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --nproc_per_node="$PROCESSES" \
  --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
  "$(dirname "$0")/test.py" "$CONFIG" "$CHECKPOINT" --launcher pytorch "$@"
