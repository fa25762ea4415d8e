# Two images of one source: `gateway` (HTTP and operator commands, no TensorFlow) and `worker`.
#
#   docker build --target gateway --tag privacy-gateway .
#   docker build --target worker --tag privacy-gateway-worker .
#
# Dependencies come from the locks, every file checked against its hash. Where the registry is only
# reached through a private certificate authority or a mirror, hand them to the build and they stay
# out of the image:
#
#   --secret id=ca_bundle,src=ca.pem  --secret id=pip_conf,src=pip.conf  --secret id=uv_toml,src=uv.toml
#
# Built with BuildKit (the default since Docker 23); no outside frontend is needed.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm


FROM ${PYTHON_IMAGE} AS base
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp
RUN groupadd --system --gid 10001 gateway \
 && useradd --system --uid 10001 --gid 10001 --home-dir /nonexistent --shell /usr/sbin/nologin \
      gateway \
 && install -d -o gateway -g gateway -m 0700 /var/lib/privacy-gateway /var/lib/privacy-gateway/logs \
      /var/lib/privacy-gateway/keys /var/lib/privacy-gateway-witness


FROM base AS tools
COPY requirements/bootstrap.txt requirements/build.txt /requirements/
COPY deploy/image/fetch /usr/local/bin/fetch
ENV UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
RUN --mount=type=secret,id=ca_bundle --mount=type=secret,id=pip_conf \
    python3 -m venv /tools \
 && fetch /tools/bin/python -m pip install --quiet --disable-pip-version-check --no-cache-dir \
      --require-hashes --requirement /requirements/bootstrap.txt \
 && fetch /tools/bin/python -m pip install --quiet --disable-pip-version-check --no-cache-dir \
      --require-hashes --requirement /requirements/build.txt --target /tools/build


# The dependencies of each image, in a layer that changes with its lock only. Bytecode is compiled
# here, once: nothing can be written at run time, and TensorFlow imports in less than half the time.
FROM tools AS gateway-dependencies
COPY requirements/gateway.txt /requirements/
RUN --mount=type=secret,id=ca_bundle --mount=type=secret,id=uv_toml \
    --mount=type=cache,target=/tmp/.cache/uv \
    /tools/bin/uv venv --quiet --python python3 /opt/venv \
 && fetch /tools/bin/uv pip install --quiet --python /opt/venv/bin/python --compile-bytecode \
      --require-hashes --requirement /requirements/gateway.txt

FROM tools AS worker-dependencies
COPY requirements/worker.txt /requirements/
RUN --mount=type=secret,id=ca_bundle --mount=type=secret,id=uv_toml \
    --mount=type=cache,target=/tmp/.cache/uv \
    /tools/bin/uv venv --quiet --python python3 /opt/venv \
 && fetch /tools/bin/uv pip install --quiet --python /opt/venv/bin/python --compile-bytecode \
      --require-hashes --requirement /requirements/worker.txt


# The application as a checkout in /app, and its metadata (entry points) in an environment of the
# same path, laid over the one with the dependencies.
FROM tools AS application
WORKDIR /app
COPY . .
RUN /tools/bin/uv venv --quiet --python python3 /opt/venv \
 && PYTHONPATH=/tools/build /tools/bin/uv pip install --quiet --offline --python /opt/venv/bin/python --no-deps \
      --no-build-isolation --config-setting editable_mode=compat --editable client --editable . \
 && rm -rf deploy requirements ./*.egg-info client/*.egg-info build \
 && python3 -m compileall -q --invalidation-mode unchecked-hash /app


FROM base AS runtime
WORKDIR /app
ENV PRIVACY_GATEWAY_STATE=/var/lib/privacy-gateway
STOPSIGNAL SIGTERM


FROM runtime AS worker
LABEL org.opencontainers.image.title="privacy-gateway worker" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV TF_CPP_MIN_LOG_LEVEL=2 PRIVACY_GATEWAY_ALIVE_FILE=/tmp/alive
COPY --from=worker-dependencies /opt/venv /opt/venv
COPY --from=application /opt/venv /opt/venv
COPY --from=application /app /app
COPY deploy/image/check_worker.py /usr/local/lib/privacy-gateway/
USER 10001:10001
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python3", "-I", "/usr/local/lib/privacy-gateway/check_worker.py"]
CMD ["python3", "-m", "worker"]


FROM runtime AS gateway
LABEL org.opencontainers.image.title="privacy-gateway" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV PRIVACY_GATEWAY_HOST=0.0.0.0 PRIVACY_GATEWAY_PORT=8081
COPY --from=gateway-dependencies /opt/venv /opt/venv
COPY --from=application /opt/venv /opt/venv
COPY --from=application /app /app
COPY deploy/image/check_gateway.py /usr/local/lib/privacy-gateway/
USER 10001:10001
EXPOSE 8081
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
  CMD ["python3", "-I", "/usr/local/lib/privacy-gateway/check_gateway.py"]
CMD ["privacy-gateway", "serve"]
