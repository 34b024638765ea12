"""Runs a job that was submitted to Dataflow, from what was staged of it alone.

python dataflow_worker.py PIPELINE.pb OUT.json

Beam's embedded runner takes the very proto, every container in it replaced by this process.
OUT.json: {"modules": where our packages came from, "counters": [[namespace, name, value]]}.
"""

import json
import sys
from pathlib import Path

from apache_beam.internal.gcp import auth
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner import fn_runner
from apache_beam.transforms.environments import EmbeddedPythonEnvironment


def replay(proto):
    """The counters of a run of the proto in this process."""
    own = EmbeddedPythonEnvironment.default().to_runner_api(None)
    for environment in proto.components.environments.values():
        environment.CopyFrom(own)
    result = fn_runner.FnApiRunner().run_via_runner_api(proto, PipelineOptions([]))
    result.wait_until_finish()
    return [
        [counter.key.metric.namespace, counter.key.metric.name, counter.committed]
        for counter in result.metrics().query()["counters"]
    ]


if __name__ == "__main__":
    auth._Credentials._credentials_init = True  # else it asks the network for twenty seconds
    pipeline, out = map(Path, sys.argv[1:])
    counters = replay(beam_runner_api_pb2.Pipeline.FromString(pipeline.read_bytes()))
    modules = {n: m.__file__ for n, m in sys.modules.items() if n in ("pipeline", "cli", "trainer")}
    out.write_text(json.dumps({"modules": modules, "counters": counters}))
