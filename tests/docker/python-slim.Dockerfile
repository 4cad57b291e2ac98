# A stand-in for python:3.13-slim, where no registry has the image: the same layout, a CPython of python.org's source (Debian's source
# package, before Debian's patches) below /usr/local with a shared libpython, and no byte code. Unlike the image it is hardly optimised.
FROM debian:trixie-slim AS build
RUN set -eu; export DEBIAN_FRONTEND=noninteractive; \
    sed -n 's/^deb /deb-src /p' /etc/apt/sources.list >/etc/apt/sources.list.d/source.list; \
    apt-get update -qq; \
    apt-get install -qq -y --no-install-recommends dpkg-dev gcc libc6-dev make pkg-config xz-utils \
        libbz2-dev libffi-dev liblzma-dev libsqlite3-dev libssl-dev uuid-dev zlib1g-dev
WORKDIR /src
RUN set -eu; \
    apt-get source -qq -o APT::Sandbox::User=root --download-only python3.13; \
    tar --strip-components 1 -xf python3.13_*.orig.tar.xz; \
    ./configure -q --enable-loadable-sqlite-extensions --enable-option-checking=fatal --enable-shared --with-ensurepip --disable-test-modules; \
    make -s -j"$(nproc)" OPT="-DNDEBUG -O1 -w" LDFLAGS=-Wl,--strip-all >/dev/null; \
    rm python; \
    make -s OPT="-DNDEBUG -O1 -w" LDFLAGS="-Wl,--strip-all,-rpath='\$\$ORIGIN/../lib'" python; \
    make -s install OPT="-DNDEBUG -O1 -w" DESTDIR=/out COMPILEALL_OPTS=--help >/dev/null; \
    find /out -depth \( -type d \( -name test -o -name tests -o -name idle_test \) -o -name '*.pyc' -o -name 'libpython*.a' \) -exec rm -rf '{}' +; \
    for name in idle3 pip3 pydoc3 python3 python3-config; do ln -s $name /out/usr/local/bin/$(echo $name | tr -d 3); done

FROM debian:trixie-slim
COPY --from=build /out/usr/local /usr/local
RUN set -eu; export DEBIAN_FRONTEND=noninteractive; \
    apt-get update -qq; \
    apt-get install -qq -y --no-install-recommends ca-certificates netbase tzdata \
        libbz2-1.0 libffi8 liblzma5 libsqlite3-0 libssl3t64 libuuid1 zlib1g; \
    rm -rf /var/lib/apt/lists/*; \
    ldconfig
CMD ["python3"]
