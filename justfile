# Everything the gate checks; never writes.
check:
    ./scripts/test.sh

# Format and let clippy mend what it can.
fix:
    cargo fmt --all
    cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged

# All tests, without the installation and the lints of `check`.
test *ARGS:
    cargo nextest run --workspace {{ ARGS }}

# Replay one seed of the pair simulation with its trace.
sim SEED:
    IPICSHA_SIM_SEED={{ SEED }} cargo nextest run -p ipicsha-core --test pair --no-capture one_seed

# 100,000 random histories instead of 3,000: about 20 minutes of processor time.
sim-long SEEDS="100000":
    IPICSHA_SIM_SEEDS={{ SEEDS }} cargo test -p ipicsha-core --test pair random_histories -- --nocapture

# Accept changed snapshots.
bless:
    INSTA_UPDATE=always cargo nextest run -p ipicsha-core

# End to end only.
e2e *ARGS:
    cargo build --workspace
    cargo nextest run -p ipicsha-e2e {{ ARGS }}

# What records cost and how fast they are, beside plain SQLite and PostgreSQL; `--quick` for a look.
bench-records *ARGS:
    cargo build --locked --release -p ipicsha -p ipicsha-bench
    target/release/ipicsha-bench {{ ARGS }}

# `ipicsha sync` with the partner beside rsync, in one run; kept under benches/results.
bench-files *ARGS:
    cargo build --locked --release -p ipicsha -p ipicsha-bench
    target/release/ipicsha-bench files {{ ARGS }}

# Time from `kill -9` until a client can write again, beside keepalived and Patroni; kept under benches/results.
bench-takeover *ARGS:
    cargo build --locked --release -p ipicsha
    python3 benches/takeover/takeover.py {{ ARGS }}

# A pair on this machine that stays.
pair:
    ./scripts/demo.sh --keep

# Format and clippy before every commit.
hooks:
    git config core.hooksPath scripts/hooks
