# For NVIDIA GPUs (the host needs only the driver):   docker build -t worker:0.1.0 .
# For CPUs, a third of the size:   docker build -t worker:0.1.0-cpu --build-arg TORCH=cpu .

FROM python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d AS build
ARG TORCH=cuda
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# The virtual environment keeps its pip: `worker weights fetch` uses it to get one of the background models.
RUN python -m venv /opt/worker
WORKDIR /src
# The dependencies are a layer of their own: they rarely change and are the largest part.
COPY requirements.lock requirements-cpu.lock requirements-cuda.lock ./
RUN /opt/worker/bin/pip install --require-hashes --no-deps --requirement requirements.lock --requirement "requirements-$TORCH.lock"
COPY pyproject.toml README.md LICENSE ./
COPY migrations migrations
COPY worker worker
RUN /opt/worker/bin/pip install --no-deps --no-build-isolation . && /opt/worker/bin/pip check

FROM python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d
RUN groupadd --gid 10001 worker \
    && useradd --uid 10001 --gid worker --home-dir /var/lib/worker --create-home worker
COPY --from=build /opt/worker /opt/worker
ENV PATH=/opt/worker/bin:$PATH \
    WORKER_WEIGHTS_DIR=/var/lib/worker/weights \
    WORKER_LOG_FORMAT=json \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
WORKDIR /var/lib/worker
# Keeps the weights that `docker run … worker weights fetch` fetches once.
VOLUME /var/lib/worker
# Running jobs can finish within WORKER_GRACE_S (120), so stop with: docker stop --time 180
STOPSIGNAL SIGTERM
# The daemon touches this file every few seconds while no lane is frozen, but not while it waits for its database at the
# start. The start period covers loading the model.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10m --retries=3 \
    CMD ["sh", "-c", "find \"${WORKER_TEMP_DIR:-/tmp/shop-model-worker}\" -maxdepth 2 -name .lock -mmin -2 | grep -q ."]
ENTRYPOINT ["worker"]
CMD ["run"]
