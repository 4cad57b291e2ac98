# The image's build stage, and what the TLS tests run on: the compiler, the program and its objects are there.
ARG BUILD
FROM ${BUILD}
RUN set -eu; export DEBIAN_FRONTEND=noninteractive; \
    apt-get update -qq; \
    apt-get install -qq -y --no-install-recommends openssl python3-venv
ARG PACKAGES
RUN python3 -m venv /venv && /venv/bin/pip install -q --disable-pip-version-check ${PACKAGES}
ENV PYTHONDONTWRITEBYTECODE=1
