FROM python:3.13-slim AS build
# For the compiled data path; the image that is run has no compiler.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
ENV TOKENLB_PURE=0
WORKDIR /source
COPY . .
# pip of the build stage installs into an environment that has none of its own.
RUN python -m venv --without-pip /opt/tokenlb \
    && pip --python /opt/tokenlb/bin/python install --no-cache-dir . \
    && /opt/tokenlb/bin/python -c 'from twisted.plugin import IPlugin, getPlugins; list(getPlugins(IPlugin))'

FROM python:3.13-slim
RUN useradd --system --user-group --home-dir /srv/tokenlb --create-home tokenlb \
    && install --directory --owner=tokenlb --group=tokenlb /srv/tokenlb/data
COPY --from=build /opt/tokenlb /opt/tokenlb
COPY servers.yaml /srv/tokenlb/
ENV PATH=/opt/tokenlb/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /srv/tokenlb
USER tokenlb
VOLUME /srv/tokenlb/data
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:9090/livez', timeout=2)"]
ENTRYPOINT ["twistd", "--nodaemon", "--pidfile=", "tokenlb"]
