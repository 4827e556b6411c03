#!/usr/bin/env bash
# The only gate: installs what the tests need (only what is missing) and runs all of them.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly NEXTEST_VERSION=0.9.143
readonly DENY_VERSION=0.20.2
readonly TOOLS="$PWD/target/tools"
export PATH="$TOOLS/bin:$PATH"
# A failed end-to-end test shows logs and causes; where the error value was made says nothing more.
export RUST_LIB_BACKTRACE=0

# stage TITLE COMMAND...: runs the command under a heading and says how long it took.
stage() {
    local title=$1 begin=$SECONDS
    shift
    printf '\n== %s\n' "$title"
    "$@"
    printf '== %s: ok, %d s\n' "$title" "$((SECONDS - begin))"
}

# fail WHAT NEXT: ends with an error and the next step.
fail() {
    printf 'error: %s\nnext: %s\n' "$1" "$2" >&2
    exit 1
}

has_faketime() {
    compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' >/dev/null
}

# A Python that can make environments and compile for them (Isso brings one C module).
has_python() {
    python3 - <<'PYTHON' 2>/dev/null
import ensurepip, os, sqlite3, ssl, sysconfig, venv
assert os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h"))
PYTHON
}

missing_packages() {
    command -v ip >/dev/null || echo iproute2
    command -v iptables >/dev/null || echo iptables
    command -v openssl >/dev/null || echo openssl
    command -v cc >/dev/null || echo gcc libc6-dev
    command -v rsync >/dev/null || echo rsync
    has_faketime || echo faketime
    has_python || echo python3-venv python3-dev
}

install_packages() {
    local packages
    mapfile -t packages < <(missing_packages | tr ' ' '\n')
    if ((${#packages[@]} == 0)); then
        echo "all there"
        return
    fi
    if ((EUID != 0)); then
        fail "Debian packages are missing: ${packages[*]}" "as root: apt-get install ${packages[*]}"
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update
    apt-get install --yes --no-install-recommends "${packages[@]}"
    mapfile -t packages < <(missing_packages)
    if ((${#packages[@]} > 0)); then
        fail "still missing after the installation: ${packages[*]}" "install them by hand"
    fi
}

# cargo_tool NAME VERSION ARGUMENTS...: builds a tool of cargo unless some version of it works.
cargo_tool() {
    local name=$1 version=$2
    shift 2
    if ! cargo "$name" --version >/dev/null 2>&1; then
        cargo install --locked --root "$TOOLS" --version "$version" "$@" "cargo-$name"
    fi
    cargo "$name" --version | head -n 1
}

install_tools() {
    cargo_tool nextest "$NEXTEST_VERSION"
    cargo_tool deny "$DENY_VERSION" --no-default-features
}

# The tests note figures and what they skip in a file; it is shown even when a test fails.
run_tests() {
    local notes="${CARGO_TARGET_DIR:-target}/e2e-notes.txt" code=0
    rm -f "$notes"
    cargo nextest run --locked --workspace --no-fail-fast || code=$?
    if [[ -e $notes ]]; then
        printf '\nNotes of the end-to-end tests:\n'
        sort "$notes"
    fi
    return "$code"
}

deny() {
    cargo deny --workspace check bans licenses sources
    if cargo deny fetch db; then
        cargo deny --workspace check advisories
    else
        echo "SKIPPED: advisories, because the advisory database cannot be fetched here"
    fi
}

if ! command -v cargo >/dev/null; then
    fail "no Rust toolchain found" "install Rust 1.95 or newer from rustup.rs"
fi
if ((EUID != 0)); then
    echo "note: not root, so tests that need network namespaces are skipped and say so"
fi
stage "Debian packages" install_packages
stage "cargo-nextest and cargo-deny" install_tools
stage "format" cargo fmt --all --check
stage "clippy" cargo clippy --locked --workspace --all-targets -- -D warnings
stage "build" cargo build --locked --workspace --all-targets
stage "tests" run_tests
RUSTDOCFLAGS="-D warnings" stage "documentation" cargo doc --locked --workspace --no-deps
stage "dependencies" deny
printf '\nAll stages passed in %d min %d s.\n' "$((SECONDS / 60))" "$((SECONDS % 60))"
