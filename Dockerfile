# One image for the workers of Dataflow and Flink, and for every command of imgembed.
#
#   docker build -t imgembed .                                           runs as the user imgembed
#   docker build --target dataflow -t REGISTRY/imgembed .                for Dataflow, see below
#   docker run --entrypoint imgembed -v "$PWD:/data" -w /data imgembed train …
#
# The versions of Beam and Python here and in requirements.lock must be the same.
ARG BEAM=2.77.0
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
WORKDIR /source
COPY setup.py pyproject.toml README.md requirements.lock ./
COPY pipeline pipeline
COPY trainer trainer
COPY cli cli
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM apache/beam_python${PYTHON}_sdk:${BEAM} AS beam

FROM gcr.io/dataflow-templates-base/python311-template-launcher-base AS launcher

# What Dataflow starts as root, since it mounts folders that root alone may write. It is the image of
# the workers and of the Flex Template's launcher.
FROM python:${PYTHON}-slim AS dataflow
COPY --from=build /source/requirements.lock /tmp/
COPY --from=build /wheels /tmp/wheels
RUN pip install --no-cache-dir -c /tmp/requirements.lock /tmp/wheels/*.whl \
    && rm -rf /tmp/wheels /tmp/requirements.lock
# What starts a worker, in place of which commands run by --entrypoint imgembed.
COPY --from=beam /opt/apache/beam /opt/apache/beam
COPY --from=launcher /opt/google/dataflow/python_template_launcher /opt/google/dataflow/python_template_launcher
COPY deploy/dataflow/launcher.py /template/launcher.py
ENV FLEX_TEMPLATE_PYTHON_PY_FILE=/template/launcher.py
ENTRYPOINT ["/opt/apache/beam/boot"]

# Everything else: commands, schedulers, and the worker pools of a Flink cluster.
FROM dataflow AS imgembed
RUN useradd --create-home --uid 1000 imgembed
USER imgembed
WORKDIR /home/imgembed
