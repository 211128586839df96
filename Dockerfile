# One image for every process; the command chooses which: `plackett serve`, `worker`, `beat`, `migrate`.
#
#   docker build -t plackett .
#   docker build -t plackett --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu .    (without CUDA: 3 GB less)

FROM python:3.11-slim-bookworm AS build
ARG TORCH_INDEX=""
RUN python -m venv /opt/plackett
WORKDIR /src
# The locked dependencies first: they change less often than the code, so this layer is usually there already.
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN mkdir app trainer migrations templates \
    && /opt/plackett/bin/pip install --no-cache-dir -c constraints.txt \
        ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} .
COPY app app
COPY trainer trainer
COPY migrations migrations
COPY templates templates
RUN /opt/plackett/bin/pip install --no-cache-dir --no-deps --force-reinstall .

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin plackett \
    && install --directory --owner=plackett --mode=0700 /data
COPY --from=build /opt/plackett /opt/plackett
# What libraries write beside the data goes to the data volume or to /tmp; there is no home directory.
ENV PATH=/opt/plackett/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PLACKETT_VAR=/data \
    HF_HOME=/data/huggingface \
    MPLCONFIGDIR=/tmp/matplotlib
USER plackett
WORKDIR /data
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
ENTRYPOINT ["plackett"]
CMD ["serve", "--host", "0.0.0.0"]
# Right for the default command; docker-compose.yml switches it off for the others.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/livez', timeout=4)"]
