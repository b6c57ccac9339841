# The image that deploy/daemonset.yaml runs; docs/deployment.md says how it is built. Needs BuildKit (--mount).
#
# All of Python comes from the lock files, with hashes and as wheels; but for python-iptables, which mode iptables asks what a
# kernel can do, and which is compiled in the first stage. Mode iptables also runs the distribution's programs. No other mode
# needs a package of it: the kernel is spoken to over netlink.
ARG PYTHON=python:3.11-slim-bookworm

FROM ${PYTHON} AS wheels
WORKDIR /source
COPY requirements.lock requirements-dev.lock requirements-iptables.lock ./
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev
# The build backend is pinned as all else is, so our own wheel is built without an environment of its own.
RUN python -m pip install --no-cache-dir --root-user-action=ignore --require-hashes --only-binary=:all: \
    --requirement requirements-dev.lock
RUN python -m pip wheel --no-cache-dir --require-hashes --only-binary=:all: --wheel-dir /wheels \
    --requirement requirements.lock
RUN python -m pip wheel --no-cache-dir --require-hashes --no-build-isolation --wheel-dir /wheels \
    --requirement requirements-iptables.lock
COPY pyproject.toml README.md LICENSE ./
COPY proxy proxy
COPY backends backends
RUN python -m pip wheel --no-cache-dir --no-build-isolation --no-deps --wheel-dir /wheels .

FROM ${PYTHON}
LABEL org.opencontainers.image.title="sliceproxy" \
      org.opencontainers.image.description="A per-node Kubernetes service proxy that explains, plans and proves what it programs" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
# Both flavours, and both families.
RUN apt-get update && apt-get install --yes --no-install-recommends iptables && rm -rf /var/lib/apt/lists/*
# The base image leaves out the bytecode of the standard library, and at run time nothing can be written: without this
# each start compiles it again, which takes about a second.
RUN python -m compileall -q -x site-packages "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"
# pip, which compiles what it installs, goes last: nothing is installed after this.
RUN --mount=type=bind,from=wheels,source=/wheels,target=/wheels \
    python -m pip install --no-cache-dir --root-user-action=ignore --no-index --no-deps /wheels/*.whl \
    && python -m pip check \
    && python -m pip uninstall --yes --root-user-action=ignore setuptools wheel pip
# Isolated: neither the environment nor the working directory adds modules. Root, since NET_ADMIN is given to no other user.
ENTRYPOINT ["python", "-I", "-m", "proxy"]
