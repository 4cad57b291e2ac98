# Stand-ins for the images that compose.yaml names, where no registry has them: Debian's packages, and of each image what the scene counts on.
# Their versions are Debian's: nginx 1.26, PostgreSQL 17, Redis 8.

# ---------------------------------------------------------------- nginx:stable
FROM debian:trixie-slim AS nginx
RUN set -eu; export DEBIAN_FRONTEND=noninteractive; \
    apt-get update -qq; \
    apt-get install -qq -y --no-install-recommends nginx-light; \
    rm -rf /var/lib/apt/lists/* /etc/nginx/sites-enabled/*; \
    ln -sf /dev/stdout /var/log/nginx/access.log; \
    ln -sf /dev/stderr /var/log/nginx/error.log
EXPOSE 80
STOPSIGNAL SIGQUIT
CMD ["nginx", "-g", "daemon off;"]

# ---------------------------------------------------------------- postgres:17
FROM debian:trixie-slim AS postgres
RUN set -eu; export DEBIAN_FRONTEND=noninteractive; \
    mkdir /etc/postgresql-common; \
    echo create_main_cluster=false >/etc/postgresql-common/createcluster.conf; \
    apt-get update -qq; \
    apt-get install -qq -y --no-install-recommends postgresql-17; \
    rm -rf /var/lib/apt/lists/*; \
    install -d -o postgres -g postgres -m 700 /var/lib/postgresql/data
ENV PATH=/usr/lib/postgresql/17/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin PGDATA=/var/lib/postgresql/data
COPY postgres-entrypoint.sh /usr/local/bin/
USER postgres
STOPSIGNAL SIGINT
ENTRYPOINT ["postgres-entrypoint.sh"]
CMD ["postgres"]

# ---------------------------------------------------------------- redis:7
FROM debian:trixie-slim AS redis
RUN set -eu; export DEBIAN_FRONTEND=noninteractive; \
    apt-get update -qq; \
    apt-get install -qq -y --no-install-recommends redis-server; \
    rm -rf /var/lib/apt/lists/*
USER redis
WORKDIR /tmp
# The image's own default: its port is the network's, not the world's.
ENTRYPOINT ["sh", "-c", "exec \"$@\" --protected-mode no", "--"]
CMD ["redis-server"]
