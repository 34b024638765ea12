"""Every night on Airflow: logs to graph and examples, model, embeddings, metrics.

The Beam stages run on Dataflow, whose workers scale by its own options; the training runs where the
Airflow worker is, or in the queue that is named, such as one with a GPU.
"""

from datetime import datetime, timedelta

from airflow import DAG
from airflow.operators.bash import BashOperator

CONFIG = "/srv/imgembed/cfg.yaml"
DATAFLOW = (
    "--runner dataflow -- --project=PROJECT --region=REGION --temp_location=gs://BUCKET/tmp "
    "--sdk_container_image=REGISTRY/imgembed --machine_type=n2-highmem-4 --max_num_workers=50"
)

with DAG(
    dag_id="imgembed",
    schedule="15 2 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=10)},
) as dag:
    graph = BashOperator(
        task_id="build_graph",
        bash_command=f"imgembed build-graph --config {CONFIG} --quiet {DATAFLOW}",
    )
    train = BashOperator(
        task_id="train",
        bash_command=f"imgembed train --config {CONFIG} --quiet",
    )
    export = BashOperator(
        task_id="export",
        bash_command=f"imgembed export --config {CONFIG} --quiet {DATAFLOW}",
    )
    evaluate = BashOperator(
        task_id="evaluate",
        bash_command=f"imgembed evaluate --config {CONFIG} --quiet",
    )
    graph >> train >> export >> evaluate
