"""The engines beside the embedded one: what each must be told, and the process that takes its jobs.

In: the runner of the configuration, and Beam's options. What an engine would only find out after a
worker has started, or never, is an error before the job is submitted.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

from apache_beam.options.pipeline_options import (
    DebugOptions,
    FlinkRunnerOptions,
    GoogleCloudOptions,
    JobServerOptions,
    PipelineOptions,
    PortableOptions,
    PrismRunnerOptions,
    SetupOptions,
    WorkerOptions,
)
from apache_beam.runners.portability.flink_runner import MAGIC_HOST_NAMES, FlinkJarJobServer
from apache_beam.runners.portability.flink_runner import FlinkRunner as _FlinkRunner
from apache_beam.runners.portability.job_server import SubprocessJobServer
from apache_beam.runners.portability.prism_runner import PrismJobServer

from pipeline.errors import ConfigError, ImgembedError

# Options that would take the embedded runner out of the one process in which it loses nothing.
_LOSSY = ("--direct_running_mode", "--direct_num_workers")
_ONE_PROCESS, _MANY_PROCESSES = "no_use_multiple_sdk_containers", "use_multiple_sdk_containers"


def check_options(runner: str, given: Sequence[str], options: PipelineOptions) -> None:
    """ConfigError where Beam's options do not go with a runner. given: as they were written."""
    if runner == "direct":
        for option in given:
            if option.startswith(_LOSSY):
                raise ConfigError(
                    f"Beam option {option!r}: Beam's local workers can lose rows; "
                    "the direct runner stays in one process"
                )
    elif runner == "flink":
        _check_flink(options)
    elif runner == "prism":
        _check_prism(options)
    else:
        _check_dataflow(options)


def _check_flink(options: PipelineOptions) -> None:
    flink, portable = options.view_as(FlinkRunnerOptions), options.view_as(PortableOptions)
    flink.flink_master = _FlinkRunner.add_http_scheme(flink.flink_master)
    is_own = flink.flink_master in MAGIC_HOST_NAMES
    if not is_own and not portable.environment_type and not _image(options):
        raise ConfigError(
            "runner flink: tell where Python workers run: --environment_type=LOOPBACK (in this "
            "process), --environment_type=EXTERNAL with --environment_config=HOST:PORT (of a "
            "worker pool), or --sdk_container_image=IMAGE. Beam's own options stand after `--`"
        )
    jar = flink.flink_job_server_jar
    if jar and "://" not in jar and not os.path.isfile(jar):
        raise ConfigError(f"runner flink: --flink_job_server_jar={jar}: there is no such file")
    launcher = options.view_as(JobServerOptions).job_server_java_launcher
    if not portable.job_endpoint and shutil.which(launcher) is None:
        raise ConfigError(
            f"runner flink: its job server is a Java program, and there is no {launcher!r} here; "
            "install Java 17, or name a job server that runs with --job_endpoint=HOST:PORT"
        )


def _check_prism(options: PipelineOptions) -> None:
    location = options.view_as(PrismRunnerOptions).prism_location
    if options.view_as(PortableOptions).job_endpoint or (location and os.path.isfile(location)):
        return
    found = f"--prism_location={location}: there is no such file" if location else "where is it?"
    raise ConfigError(
        f"runner prism: {found}; build it with `go install github.com/apache/beam/sdks/v2/go/cmd/"
        "prism@v2.77.0` and name it: -- --prism_location=FILE"
    )


def _check_dataflow(options: PipelineOptions) -> None:
    cloud, setup = options.view_as(GoogleCloudOptions), options.view_as(SetupOptions)
    for name in ("project", "region", "temp_location"):
        if not getattr(cloud, name):
            raise ConfigError(
                f"runner dataflow: --{name} is missing; Beam's own options stand after `--`"
            )
    for name in ("temp_location", "staging_location"):
        place = getattr(cloud, name)
        if place and not place.startswith("gs://"):
            raise ConfigError(f"runner dataflow: --{name}={place}: wanted gs://BUCKET/FOLDER")
    packages = setup.extra_packages or setup.setup_file or setup.requirements_file
    if not _image(options) and not packages:
        raise ConfigError(
            "runner dataflow: its workers need imgembed: name the image that the Dockerfile makes "
            "with --sdk_container_image=IMAGE, or a wheel with --extra_package=FILE"
        )


def _image(options: PipelineOptions) -> str | None:
    image: str | None = options.view_as(WorkerOptions).sdk_container_image
    return image


def share_process(options: PipelineOptions) -> None:
    """Asks Dataflow for one process a machine in place of one a core, unless either was asked for.

    TensorFlow computes on all cores from one process, and each process would hold a model, and
    some 600 MB of TensorFlow, of its own.
    """
    debug = options.view_as(DebugOptions)
    if not {_ONE_PROCESS, _MANY_PROCESSES}.intersection(debug.experiments or ()):
        debug.add_experiment(_ONE_PROCESS)


def job_server(runner: str, options: PipelineOptions) -> AbstractContextManager[None]:
    """The process that takes the jobs of an engine, for as long as one runs.

    Beam would leave it behind where the program is ended by a signal. Nothing is started for an
    engine that has none, or whose address is given.
    """
    if runner not in ("flink", "prism") or options.view_as(PortableOptions).job_endpoint:
        return nullcontext()
    return _started(runner, options)


@contextmanager
def _started(runner: str, options: PipelineOptions) -> Iterator[None]:
    served, portable = options.view_as(JobServerOptions), options.view_as(PortableOptions)
    if runner == "prism" or options.view_as(FlinkRunnerOptions).flink_master in MAGIC_HOST_NAMES:
        portable.environment_type = portable.environment_type or "LOOPBACK"
    served.job_port = served.job_port or _free_port()
    kind = FlinkJarJobServer if runner == "flink" else PrismJobServer
    server: SubprocessJobServer = kind(options)
    try:
        try:
            server.start()
        except (RuntimeError, ValueError, OSError) as error:
            said = f"runner {runner}: its job server does not start: {error}"
            raise ImgembedError(said) from error
        portable.job_endpoint = f"localhost:{served.job_port}"
        yield
    finally:
        portable.job_endpoint = None
        if server._server is not None:
            server.stop()


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("localhost", 0))
        return int(server.getsockname()[1])
