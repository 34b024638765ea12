"""A stand-in of Dataflow's REST endpoint: records the jobs, and has each run from what was staged.

A job's worker is a process in a folder of its own that knows imgembed only by the wheel that the
submission put into the bucket.
"""

import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from apache_beam.io.filesystems import FileSystems

_JOBS = re.compile(r"/v1b3/projects/[^/]+/locations/[^/]+/jobs(?:/([^/?]+))?(/\w+)?")
# As the service's interface numbers them.
_RUNNING, _DONE, _FAILED = 2, 3, 4
_ERROR = 5


class Job:
    """A submitted job, and the process that runs it. body: as it was posted."""

    def __init__(self, body, folder):
        self.body = body
        self.folder = Path(folder)
        self.folder.mkdir(parents=True)
        self.staged = self._fetch()
        site = self.folder / "site"
        wheels = [path for name, path in self.staged.items() if name.endswith(".whl")]
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index",
             "--target", site, *wheels],
            check=True,
        )  # fmt: skip
        self.answer = self.folder / "answer.json"
        worker = Path(__file__).with_name("dataflow_worker.py")
        with (self.folder / "worker.log").open("wb") as log:
            self.process = subprocess.Popen(
                ["nice", "-n", "10", sys.executable, worker, self.staged["pipeline.pb"],
                 self.answer],
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": str(site)},
                stdout=log,
                stderr=subprocess.STDOUT,
            )  # fmt: skip

    def _fetch(self):
        """{name: local path} of all that was staged for the job."""
        found = {}
        places = [package["location"] for package in self.packages]
        urls = [re.sub(r"^(https?://)?storage.googleapis.com/", "gs://", place) for place in places]
        urls.append(self.options["pipelineUrl"])
        for url in urls:
            name = url.rsplit("/", 1)[1]
            found[name] = self.folder / name
            with FileSystems.open(url, compression_type="uncompressed") as file:
                found[name].write_bytes(file.read())
        return found

    @property
    def pool(self):
        return self.body["environment"]["workerPools"][0]

    @property
    def packages(self):
        return self.pool.get("packages", [])

    @property
    def options(self):
        return self.body["environment"]["sdkPipelineOptions"]["options"]

    @property
    def state(self):
        code = self.process.poll()
        return _RUNNING if code is None else _FAILED if code else _DONE

    def metrics(self):
        """Each counter as the service tells it: committed, and tentative."""
        counters = json.loads(self.answer.read_text())["counters"]
        return [
            {
                "name": {"origin": "user", "name": name,
                         "context": {"namespace": space, "step": f"s{index}", **context}},
                "scalar": value,
            }
            for index, (space, name, value) in enumerate(counters)
            for context in ({}, {"tentative": "true"})
        ]  # fmt: skip

    def messages(self):
        if self.state != _FAILED:
            return []
        text = (self.folder / "worker.log").read_text()
        time = "2026-01-01T00:00:00Z"
        return [{"id": "1", "time": time, "messageText": text, "messageImportance": _ERROR}]


class Service:
    """Serves on a free port of localhost; `jobs` in the order in which they came."""

    def __init__(self, folder):
        self.jobs = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                service.jobs.append(Job(body, Path(folder) / f"job-{len(service.jobs)}"))
                self.answer({**self.described(len(service.jobs) - 1)})

            def do_GET(self):
                number, part = _JOBS.match(self.path).groups()
                index = int(number.removeprefix("job-"))
                job = service.jobs[index]
                if part == "/metrics":
                    self.answer({"metrics": job.metrics() if job.state == _DONE else []})
                elif part == "/messages":
                    self.answer({"jobMessages": job.messages()})
                else:
                    self.answer(self.described(index))

            def do_PUT(self):
                self.do_GET()

            def described(self, index):
                state = service.jobs[index].state
                name = service.jobs[index].body["name"]
                return {"id": f"job-{index}", "name": name, "currentState": state}

            def answer(self, content):
                data = json.dumps(content).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("localhost", 0), Handler)
        self.address = f"http://localhost:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._server.shutdown()
        for job in self.jobs:
            job.process.kill()
            job.process.wait()
