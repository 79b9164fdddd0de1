# syntax=docker/dockerfile:1.7
# The engine for GPUs: vLLM's own published image with our plugin on top. From the repository's root:
#   docker build -f docker/engine-cuda.Dockerfile -t genadapter-engine:0.1.0-cuda .
# Runs with a read-only root file system; it writes below /tmp and /dev/shm only.
# The release is one that service/vllm_plugin/hooks.py knows: with another one the plugin leaves parts of vLLM as they are.
# For a reproducible base give an image with its digest: --build-arg VLLM_IMAGE=docker.io/vllm/vllm-openai@sha256:...
ARG VLLM_IMAGE=docker.io/vllm/vllm-openai:v0.32.0

FROM ${VLLM_IMAGE} AS build
ARG UV_VERSION=0.13.9
ENV UV_LINK_MODE=copy
RUN pip install --no-cache-dir "uv==${UV_VERSION}"
COPY docker/locks/engine-cuda.txt /build/requirements.txt
COPY pyproject.toml README.md LICENSE /build/source/
COPY generator /build/source/generator
COPY service /build/source/service
# Into a folder of its own, which comes last on the path: nothing of vLLM's is replaced. setuptools, which builds ours, is one of
# vLLM's dependencies.
RUN --mount=type=cache,target=/root/.cache/uv \
    uv pip install --system --target /opt/genadapter/packages --no-deps --compile-bytecode -r /build/requirements.txt && \
    uv pip install --system --target /opt/genadapter/packages --no-deps --no-build-isolation --compile-bytecode /build/source && \
    python3 -c "import site; print(site.getsitepackages()[0])" >/build/site && \
    mkdir -p "/build/root$(cat /build/site)" && \
    echo /opt/genadapter/packages >"/build/root$(cat /build/site)/genadapter.pth"

FROM ${VLLM_IMAGE} AS engine
ARG VERSION=0.1.0
ARG COMMIT=unknown
LABEL org.opencontainers.image.title="genadapter engine (CUDA)" \
      org.opencontainers.image.description="vLLM with the genadapter plugin" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}"
RUN groupadd --gid 10001 genadapter && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin genadapter
COPY --from=build /opt/genadapter/packages /opt/genadapter/packages
COPY --from=build /build/root /
COPY docker/start.py docker/health.py /opt/genadapter/
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    XDG_CACHE_HOME=/tmp/cache \
    HF_HOME=/tmp/huggingface \
    TORCHINDUCTOR_CACHE_DIR=/tmp/torchinductor \
    TRITON_CACHE_DIR=/tmp/triton \
    VLLM_CACHE_ROOT=/tmp/vllm
WORKDIR /tmp
USER 10001:10001
EXPOSE 8001
HEALTHCHECK --interval=15s --timeout=5s --start-period=10m --retries=4 \
    CMD ["python3", "/opt/genadapter/health.py", "http://127.0.0.1:8001/health"]
ENTRYPOINT ["python3", "/opt/genadapter/start.py", "engine"]
