# syntax=docker/dockerfile:1
# The image: the binary on a base without a shell, run by nobody, with nothing to write to.

# The same Debian in both stages, so that the binary meets the C library that it was linked with.
FROM rust:1.95-slim-bookworm AS build
# Writes into the binary which crates it is made of, so that scanners of images know them.
RUN cargo install cargo-auditable --version 0.7.7 --locked
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo auditable build --release --locked --bin entitlements && \
    install -D target/release/entitlements /out/entitlements

# libc, libgcc, the certificate authorities that Clerk's Backend API is verified with, and a user 65532.
FROM gcr.io/distroless/cc-debian12:nonroot
LABEL org.opencontainers.image.title="entitlements" \
      org.opencontainers.image.description="Answers over gRPC what a Clerk Billing subscription entitles to" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /out/entitlements /entitlements
# Inside a container, the loopback address is nobody's but the container's.
ENV GRPC_LISTEN=0.0.0.0:50051 HTTP_LISTEN=0.0.0.0:8080 INTERNAL_LISTEN=0.0.0.0:9090
EXPOSE 50051 8080 9090
USER 65532:65532
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --start-interval=1s --retries=3 \
    CMD ["/entitlements", "ready"]
ENTRYPOINT ["/entitlements"]
CMD ["serve"]
