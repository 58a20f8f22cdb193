# anomalyd in a container: `docker build -t anomalyd .`
#
#   docker run --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges \
#     -v anomalyd-data:/data -v ./anomalyd.yml:/etc/anomalyd/anomalyd.yml:ro -v ./rules:/etc/anomalyd/rules:ro \
#     -p 127.0.0.1:9640:9640 anomalyd
#
# Writable are /data (database, compiled kernels) and /tmp only. Any numeric user works that may write /data; with a
# foreign UID let its group be 0, which owns /data. Settings for a container: `web: {listen: ":9640"}` and
# `database: {url: "sqlite:////data/anomalyd.db"}`. A release pins both images by digest (--build-arg PYTHON_IMAGE=...).

ARG PYTHON_IMAGE=docker.io/library/python:3.13-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
RUN python3 -m venv /opt/anomalyd
COPY contrib/ci/constraints.txt pyproject.toml README.md LICENSE ./
COPY daemon ./daemon
COPY rules ./rules
RUN /opt/anomalyd/bin/python -m pip install --constraint constraints.txt '.[postgres]'
RUN /opt/anomalyd/bin/python -m compileall -q -j 0 /opt/anomalyd/lib
RUN /opt/anomalyd/bin/anomalyd --version

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="anomalyd" \
      org.opencontainers.image.description="Anomaly detection and alerting daemon for Prometheus" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/anomalyd /opt/anomalyd
RUN mkdir -p /data /etc/anomalyd && chown 10001:0 /data && chmod 2770 /data
ENV PATH=/opt/anomalyd/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONFAULTHANDLER=1 \
    HOME=/tmp \
    NUMBA_CACHE_DIR=/data/kernels
VOLUME /data
WORKDIR /data
EXPOSE 9640
USER 10001:0
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=2m --retries=3 \
  CMD ["/opt/anomalyd/bin/python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:9640/-/healthy', timeout=4)"]
ENTRYPOINT ["/opt/anomalyd/bin/anomalyd"]
CMD ["run", "--config", "/etc/anomalyd/anomalyd.yml"]
