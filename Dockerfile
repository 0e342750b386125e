# Images of the stream's own processes: one target each, what it needs and nothing else.
#   docker build --target bridge -t icestream-bridge .
FROM python:3.12.13-slim-bookworm AS base
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1

FROM base AS packages
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv /opt/venv
COPY locks/*.lock ./

FROM packages AS emitter-packages
RUN /opt/venv/bin/pip install --require-hashes --only-binary :all: -r emitter.lock && /opt/venv/bin/pip uninstall -y -q setuptools pip

FROM packages AS bridge-packages
RUN /opt/venv/bin/pip install --require-hashes --only-binary :all: -r bridge.lock && /opt/venv/bin/pip uninstall -y -q setuptools pip

FROM packages AS deployer-packages
RUN /opt/venv/bin/pip install --require-hashes --only-binary :all: -r deployer.lock && /opt/venv/bin/pip uninstall -y -q setuptools pip

FROM packages AS recorder-packages
RUN /opt/venv/bin/pip install --require-hashes --only-binary :all: -r recorder.lock && /opt/venv/bin/pip uninstall -y -q setuptools pip

FROM packages AS display-packages
RUN /opt/venv/bin/pip install --require-hashes --only-binary :all: -r display.lock && /opt/venv/bin/pip uninstall -y -q setuptools pip

# Files belong to the user that runs: a checkout made with a strict umask is readable for its owner alone.
FROM base AS runtime
ENV PATH=/opt/venv/bin:$PATH
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp icestream \
 && install --directory --owner icestream --group icestream /var/lib/icestream
WORKDIR /app
COPY --chown=icestream icestream icestream
USER icestream

FROM runtime AS emitter
COPY --from=emitter-packages /opt/venv /opt/venv
COPY --chown=icestream emitter emitter
CMD ["python", "-m", "emitter"]

FROM runtime AS bridge
COPY --from=bridge-packages /opt/venv /opt/venv
COPY --chown=icestream bridge bridge
CMD ["python", "-m", "bridge"]

FROM runtime AS deployer
COPY --from=deployer-packages /opt/venv /opt/venv
COPY --chown=icestream deployer deployer
CMD ["python", "-m", "deployer"]

FROM runtime AS recorder
COPY --from=recorder-packages /opt/venv /opt/venv
COPY --chown=icestream recorder recorder
CMD ["python", "-m", "recorder"]

FROM runtime AS display
COPY --from=display-packages /opt/venv /opt/venv
COPY --chown=icestream display display
CMD ["python", "-m", "display"]

# The model repository as an image, for machines that share no disk (deploy/kubernetes).
FROM base AS models
COPY --chown=10001 model_repository /model_repository
USER 10001
