# syntax=docker/dockerfile:1
FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
# The caches keep the dependencies between builds; the binary is copied out because a cache is no part of the image.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --locked --release --bin sagad && cp target/release/sagad /sagad

FROM debian:bookworm-slim
# Certificates for amqps:// and for Postgres over TLS.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home sagad \
    && install -d -o sagad -g sagad /var/lib/sagad
COPY --from=build /sagad /usr/local/bin/sagad
# Mount your own over these two.
COPY config /srv/sagad/config
COPY sagas /srv/sagad/sagas
WORKDIR /srv/sagad
USER sagad
VOLUME /var/lib/sagad
ENV SAGAD__STORE__URL=sqlite:///var/lib/sagad/sagad.db
EXPOSE 7242
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s CMD ["bash", "-c", \
    "exec 3<>/dev/tcp/127.0.0.1/7242 && printf 'GET /readyz HTTP/1.0\\r\\n\\r\\n' >&3 && head -n 1 <&3 | grep -q ' 200 '"]
# A JSON entry point, so that SIGTERM reaches sagad itself.
ENTRYPOINT ["sagad"]
CMD ["serve"]
