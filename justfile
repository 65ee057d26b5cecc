# Short names for the commands of CONTRIBUTING.md. Nothing here is needed: each recipe is one command.

# List the recipes
default:
    @just --list

# Run the service on a private Postgres, with the example catalog
dev *ARGS:
    cargo run -- dev {{ARGS}}

# Run all tests, or those whose name contains FILTER (`just test ofrep::`)
test *FILTER:
    cargo test {{FILTER}}

# Check formatting, lints and documentation, as .ci/run does
lint:
    cargo fmt --check
    cargo clippy --locked --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --quiet

# Write .sqlx again after a change of a query or a migration (`just queries --check` only compares)
queries *ARGS:
    .ci/queries {{ARGS}}

# Fuzz one target (webhook, headers, request, catalog, revision) until it is stopped
fuzz TARGET *ARGS:
    cargo fuzz run {{TARGET}} -s none {{ARGS}}

# Run one benchmark (check, database, memory, micro, overload, scale)
bench NAME *ARGS:
    cargo bench --bench {{NAME}} -- {{ARGS}}

# Run all that decides whether a change is merged
ci:
    .ci/run
