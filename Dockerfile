# Two stages: the first installs, the second has only what runs.

FROM python:3.11-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
WORKDIR /src
RUN python -m venv /opt/sluice
# The dependencies first: this layer changes only when the lock does.
COPY requirements.lock ./
RUN /opt/sluice/bin/pip install --no-deps --require-hashes -r requirements.lock
COPY pyproject.toml README.md ./
COPY app app
COPY learners learners
COPY scripts scripts
RUN /opt/sluice/bin/pip install --no-deps --no-build-isolation .

FROM python:3.11-slim
RUN useradd --system --create-home --uid 10001 sluice \
    && mkdir /data /var/cache/sluice \
    && chown sluice:sluice /data /var/cache/sluice
COPY --from=build /opt/sluice /opt/sluice
# 0.0.0.0 is open to other machines, so the start asks for SLUICE_API_KEY (or SLUICE_INSECURE=yes).
ENV PATH=/opt/sluice/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    NUMBA_CACHE_DIR=/var/cache/sluice \
    SLUICE_HOST=0.0.0.0 \
    SLUICE_PORT=8000 \
    SLUICE_DATA_DIR=/data
USER sluice
WORKDIR /home/sluice
# Once here, not by each container for a minute; on another kind of processor it is done again.
RUN python -c "from app.warm_up import warm_up; warm_up()"
VOLUME /data
EXPOSE 8000
# The start compiles kernels and replays the log's tail before it listens.
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['SLUICE_PORT']), timeout=2); c.request('GET', '/healthz'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["sluice"]
CMD ["serve"]
