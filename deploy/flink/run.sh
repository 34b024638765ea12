#!/usr/bin/env bash
# build-graph and export on a Flink 2.2 cluster whose machines share the folder of the run.
# On each TaskManager's machine a pool of Python workers from imgembed's image must listen:
#   docker run --network host -v /shared:/shared REGISTRY/imgembed --worker_pool
set -euo pipefail
MASTER=${1:?address of the JobManager, such as flink:8081}
JAR=${2:?beam-runners-flink-2.2-job-server-2.77.0.jar of Maven Central}
FLINK=(--runner flink -- "--flink_master=$MASTER" "--flink_job_server_jar=$JAR" --parallelism=8
  --environment_type=EXTERNAL --environment_config=localhost:50000)
imgembed build-graph --config /shared/cfg.yaml --run-dir /shared/run "${FLINK[@]}"
imgembed export --config /shared/cfg.yaml --run-dir /shared/run "${FLINK[@]}"
