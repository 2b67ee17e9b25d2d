#!/bin/bash
#SBATCH --job-name=@NAME@
#SBATCH --output=@NAME@-%j.log
#SBATCH --open-mode=append
#SBATCH --nodes=@NODES@
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=@GPUS@
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@300
#
# Adapt the lines above to your cluster, then submit with: sbatch THIS-FILE
# The folder, the project and Python must be the same on every machine (a shared file system).
# A job that is requeued, by hand or because its time runs out, goes on from its last checkpoint.
set -euo pipefail
cd @FOLDER@

export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 HF_DATASETS_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 DO_NOT_TRACK=1
export OMP_NUM_THREADS=$(( ${SLURM_CPUS_PER_TASK:-@GPUS@} / @GPUS@ > 0 ? ${SLURM_CPUS_PER_TASK:-@GPUS@} / @GPUS@ : 1 ))
export RAYON_NUM_THREADS=$OMP_NUM_THREADS

# The processes meet at the first machine, at a port that two jobs on it are unlikely to share.
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
port=$(( 20000 + SLURM_JOB_ID % 20000 ))

# Five minutes before the time runs out: put the job back into the queue. Slurm then asks the processes to stop, and
# they keep what they have reached.
trap 'scontrol requeue "$SLURM_JOB_ID"' USR1

srun --kill-on-bad-exit=1 @PYTHON@ -m torch.distributed.run \
  --nnodes="$SLURM_JOB_NUM_NODES" --nproc-per-node=@GPUS@ \
  --rdzv-id="$SLURM_JOB_ID" --rdzv-backend=c10d --rdzv-endpoint="$first:$port" \
  @COMMAND@ &
run=$!
# The trap interrupts the wait, which is then taken up again.
while true; do
  wait "$run" && code=0 || code=$?
  kill -0 "$run" 2>/dev/null || break
done
exit "$code"
