# syntax=docker/dockerfile:1
# The image: the binary on a base without a shell, run as user 65532. The service writes no files.

# Both stages use the same Debian release, so that the binary finds the C library that it was linked with.
FROM rust:1.95-slim-bookworm AS build
# cargo-auditable embeds the list of crates in the binary, so that image scanners can read it.
RUN cargo install cargo-auditable --version 0.7.7 --locked
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo auditable build --release --locked --no-default-features --bin entitlements && \
    install -D target/release/entitlements /out/entitlements && \
    mkdir /out/config

# The base has libc, libgcc, the certificate authorities that verify Clerk's Backend API, and the user 65532.
FROM gcr.io/distroless/cc-debian12:nonroot
LABEL org.opencontainers.image.title="entitlements" \
      org.opencontainers.image.description="Answers over gRPC what a Clerk Billing subscription entitles to" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /out/entitlements /entitlements
# For a volume that `entitlements init /config` fills. An empty named volume takes the owner of the folder in the image.
COPY --from=build --chown=65532:65532 /out/config /config
# Listen on all addresses: the loopback address of a container is not reachable from outside.
ENV ENTITLEMENTS_API_LISTEN=0.0.0.0:50051 ENTITLEMENTS_WEBHOOK_LISTEN=0.0.0.0:8080 ENTITLEMENTS_OPERATOR_LISTEN=0.0.0.0:9090
EXPOSE 50051 8080 9090
USER 65532:65532
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --start-interval=1s --retries=3 \
    CMD ["/entitlements", "ready"]
ENTRYPOINT ["/entitlements"]
CMD ["serve"]
