# One image for Dataflow and Flink workers, and for every command of imgembed.
#
#   docker build -t imgembed .
#   imgembed build-graph … --runner dataflow -- --sdk_container_image=REGISTRY/imgembed …
#   docker run --user imgembed --entrypoint imgembed -v "$PWD:/data" -w /data imgembed train …
#
# The version of Beam in the base image and the one in requirements.lock must be the same.
ARG BEAM=2.77.0
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
WORKDIR /source
COPY setup.py pyproject.toml README.md requirements.lock ./
COPY pipeline pipeline
COPY trainer trainer
COPY cli cli
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM apache/beam_python${PYTHON}_sdk:${BEAM}
COPY --from=build /source/requirements.lock /tmp/
COPY --from=build /wheels /tmp/wheels
# The entry point stays the base image's /opt/apache/beam/boot: it is what starts a worker.
RUN pip install --no-cache-dir -c /tmp/requirements.lock /tmp/wheels/*.whl \
    && rm -rf /tmp/wheels /tmp/requirements.lock \
    && useradd --create-home imgembed
# Dataflow mounts folders that only root may write and starts the worker by the image's user, so the
# image's user must stay root; commands run by hand or by a scheduler take `--user imgembed`.
