# The daemon in a container: configuration in /etc/erpsync, state and targets in /data, secrets as files in /etc/erpsync/secrets.
#
#   docker run --stop-timeout 150 -v ./config:/etc/erpsync:ro -v erpsync:/data erpsync
#
# --stop-timeout: `drain` (60 s), what has to be made to end, and what is written after it; an engine's own ten seconds
# would kill it. Secrets: files that user 10001 can read, there or in any folder that [secrets] from names ("/run/secrets").
# HEALTHCHECK: unhealthy while anything is wrong, a parked or overdue job too; what restarts containers asks /healthz. It
# and /metrics are on 127.0.0.1 inside: -e ERPSYNC_METRICS__LISTEN=0.0.0.0:9465 -p 9465:9465 opens them.
#
FROM python:3.13-slim AS build
WORKDIR /src
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
COPY requirements requirements
RUN python -m venv /opt/erpsync \
 && /opt/erpsync/bin/pip install --quiet --require-hashes -r requirements/run.txt \
 && pip install --quiet --require-hashes -r requirements/build.txt
COPY . .
RUN python -m hatchling build -t wheel \
 && /opt/erpsync/bin/pip install --quiet --no-deps --no-index dist/*.whl \
 && /opt/erpsync/bin/pip uninstall --quiet --yes pip

FROM python:3.13-slim
RUN groupadd --gid 10001 erpsync \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data erpsync \
 && install --directory --owner=erpsync --group=erpsync --mode=0700 /data
COPY --from=build /opt/erpsync /opt/erpsync
ENV PATH=/opt/erpsync/bin:$PATH ERPSYNC_DAEMON__DATA=/data PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /data
VOLUME /data
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s CMD ["erpsync", "status", "--check"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["erpsync"]
CMD ["daemon"]
