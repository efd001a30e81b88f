#!/bin/bash
# A sweep over several machines of a Slurm cluster: one Ray node per machine, one writer.
#
#     sbatch --export=ALL,STUDY=study.yaml slurm.sh
#
# Checkpoints, data and the results folder lie on a file system that all nodes see. A job that is
# stopped (time limit, preemption, scancel) keeps every answer; submit it again and it goes on.
#SBATCH --job-name=forgeteval
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
set -euo pipefail

STUDY=${STUDY:-checkpoints.yaml}
PORT=${PORT:-6379}
GPUS=${SLURM_GPUS_ON_NODE:-8}
CPUS=${SLURM_CPUS_PER_TASK:-64}
export RAY_USAGE_STATS_ENABLED=0

mapfile -t NODES < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
HEAD=${NODES[0]}
HEAD_IP=$(srun --nodes=1 --ntasks=1 --nodelist="$HEAD" hostname --ip-address | awk '{print $1}')

# Each `ray start` stays in the foreground of its own step: it ends with the job.
srun --overlap --nodes=1 --ntasks=1 --nodelist="$HEAD" \
  ray start --head --node-ip-address="$HEAD_IP" --port="$PORT" \
  --num-gpus="$GPUS" --num-cpus="$CPUS" --include-dashboard=false --block &
until srun --overlap --nodes=1 --ntasks=1 --nodelist="$HEAD" \
  ray health-check --address="$HEAD_IP:$PORT" >/dev/null 2>&1; do
  sleep 2
done
for NODE in "${NODES[@]:1}"; do
  srun --overlap --nodes=1 --ntasks=1 --nodelist="$NODE" \
    ray start --address="$HEAD_IP:$PORT" \
    --num-gpus="$GPUS" --num-cpus="$CPUS" --block &
done

# The writer runs on the head node. Workers on nodes that come up later join it.
WORKERS=${WORKERS:-$((GPUS * ${#NODES[@]}))}
srun --overlap --nodes=1 --ntasks=1 --nodelist="$HEAD" \
  forgeteval score "$STUDY" --executor ray --address "$HEAD_IP:$PORT" \
  --workers "$WORKERS" --progress plain &
WRITER=$!
# Slurm's warning before the time limit reaches this shell: pass it on, then wait for the end.
trap 'kill -TERM "$WRITER"' TERM
CODE=0
wait "$WRITER" || CODE=$?
if kill -0 "$WRITER" 2>/dev/null; then
  wait "$WRITER" || CODE=$?
fi
kill $(jobs -p) 2>/dev/null || true
exit "$CODE"
