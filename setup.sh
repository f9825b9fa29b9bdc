#!/usr/bin/env bash
# Makes this machine ready for the testbed: Debian packages and the virtual environment .venv.
# Safe to run any number of times; does nothing when nothing is missing. Starts no service.
# With --peers: installs what 'make bench' compares the testbed with, and nothing else.
# With --interop: installs whom the tests of IPsec talk to (strongSwan), and nothing else.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

venv=.venv
stamp=$venv/.testbed-stamp
log=$(pwd)/setup.log
policy=/usr/sbin/policy-rc.d
policy_is_ours=no

fail() {
    echo "setup: $*" >&2
    exit 1
}

say() {
    echo "setup: $*"
}

cleanup() {
    if [ "$policy_is_ours" = yes ]; then
        rm -f "$policy"
    fi
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Program that must be there, and the Debian package that brings it.
needed="
ovs-vswitchd:openvswitch-switch
mnexec:mininet
iperf3:iperf3
ip:iproute2
tc:iproute2
ping:iputils-ping
ethtool:ethtool
tcpdump:tcpdump
tshark:tshark
capinfos:wireshark-common
unshare:util-linux
nsenter:util-linux
mount:mount
ps:procps
sysctl:procps
gcc:gcc
git:git
make:make
"

# Packages of which no single program tells the presence.
needed_libraries="libc6-dev ca-certificates"

# What 'make bench' runs beside the NVE. A distribution may lack one: the benchmark then says that it is missing.
peers="openvpn wireguard-go wireguard-tools fastd tinc openvswitch-switch strongswan-charon strongswan-swanctl
libcharon-extra-plugins libstrongswan-extra-plugins libstrongswan-standard-plugins"

# The foreign IPsec of tests/live/test_ipsec_interop.py: charon, its IPsec in user space, what configures it.
interop="strongswan-charon strongswan-swanctl libcharon-extra-plugins libstrongswan-standard-plugins"

have_program() {
    # Daemons live in sbin, which is not on everyone's PATH.
    PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null 2>&1
}

installed() {
    dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q ' installed$'
}

# The newest interpreter that the lock file and Ryu get on with; the system's before anybody else's.
version_of() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true
}

usable_python() {
    # The venv needs ensurepip, and packages with C parts need Python.h.
    "$1" - 2>/dev/null <<'PYTHON'
import ensurepip, os, sys, sysconfig, venv
header = os.path.join(sysconfig.get_paths()["include"], "Python.h")
sys.exit(0 if (3, 10) <= sys.version_info[:2] <= (3, 13) and os.path.exists(header) else 1)
PYTHON
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-} /usr/bin/python3.11 /usr/bin/python3 \
        /usr/bin/python3.10 /usr/bin/python3.12 /usr/bin/python3.13 \
        python3.11 python3.10 python3.12 python3.13; do
        if candidate=$(command -v "$candidate" 2>/dev/null) && usable_python "$candidate"; then
            echo "$candidate"
            return 0
        fi
    done
    return 1
}

missing_packages() {
    local entry package
    for entry in $needed; do
        have_program "${entry%%:*}" || echo "${entry##*:}"
    done
    for package in $needed_libraries; do
        installed "$package" || echo "$package"
    done
    find_python >/dev/null || printf '%s\n' python3 python3-venv python3-dev
}

apt_run() {
    # Without a policy-rc.d, Debian starts services (Open vSwitch, iperf3) on installation; the testbed
    # must leave the host alone. One that exists already is the administrator's and stays.
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
        policy_is_ours=yes
    fi
    DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 "$@" >>"$log" 2>&1 </dev/null
}

install_packages() {
    local missing
    missing=$(missing_packages | sort -u | tr '\n' ' ')
    [ -n "${missing// /}" ] || return 0
    command -v apt-get >/dev/null 2>&1 ||
        fail "this is no Debian or Ubuntu machine (no apt-get); install the equivalents of: $missing"
    [ "$(id -u)" = 0 ] || fail "root is needed once to install: $missing; run 'sudo make setup'."
    say "installing Debian packages: $missing"
    : >"$log"
    # The package lists may be absent (a fresh container image) or old; refresh them only if it fails without.
    # shellcheck disable=SC2086
    if ! apt_run install --no-install-recommends $missing; then
        say "refreshing the package lists"
        apt_run update ||
            fail "apt-get update failed (is there a network and a working mirror?); see $log."
        # shellcheck disable=SC2086
        apt_run install --no-install-recommends $missing ||
            fail "apt-get could not install: $missing; see $log for the reason, mend it and run again."
    fi
    missing=$(missing_packages | sort -u | tr '\n' ' ')
    [ -z "${missing// /}" ] || fail "still missing after installation: $missing; see $log."
}

# Arguments: the make target or option to name in advice, and the packages.
install_extra() {
    local package missing="" again=$1
    shift
    for package in "$@"; do
        installed "$package" || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    command -v apt-get >/dev/null 2>&1 || fail "this is no Debian or Ubuntu machine; install the equivalents of:$missing"
    [ "$(id -u)" = 0 ] || fail "root is needed once to install:$missing; run 'sudo $again'."
    say "installing:$missing"
    : >"$log"
    apt_run update || say "the package lists could not be refreshed; trying with those that are here"
    # One by one: a package that this distribution does not have must not keep the others away.
    for package in $missing; do
        apt_run install --no-install-recommends "$package" || say "could not install $package; see $log"
    done
}

build_venv() {
    local python=$1 wanted=$2
    say "building $venv with $("$python" --version 2>&1) from requirements.lock"
    : >"$log"
    rm -rf "$venv"
    "$python" -m venv "$venv" >>"$log" 2>&1 ||
        fail "'$python -m venv' failed; see $log (on Ubuntu the package python3-venv brings what it needs)."
    # Ryu's source archive needs an old setuptools at hand when it is built: the build tools go in first,
    # from the same lock, and the build may use them (--no-build-isolation).
    awk '/^[a-z]/ { keep = /^(setuptools|wheel|pbr)==/ } keep' requirements.lock >"$venv/build-tools.lock"
    local lock
    for lock in "$venv/build-tools.lock" requirements.lock; do
        "$venv/bin/python" -m pip --disable-pip-version-check --no-input install \
            --require-hashes --no-build-isolation -r "$lock" >>"$log" 2>&1 ||
            fail "pip could not install $lock (is there a network and a package index?); see $log and run again."
    done
    "$venv/bin/python" -c 'import cryptography, mininet, pydantic, scapy, yaml' >>"$log" 2>&1 ||
        fail "the packages were installed but do not import; see $log, then remove $venv and run again."
    echo "$wanted" >"$stamp"
}

main() {
    local python wanted
    # shellcheck disable=SC2086
    case "${1:-}" in
        --peers) install_extra "make bench-setup" $peers; return ;;
        --interop) install_extra "./setup.sh --interop" $interop; return ;;
    esac
    install_packages
    python=$(find_python) ||
        fail "no Python 3.10 to 3.13 with venv and headers was found; install one and set PYTHON=/path/to/python3."
    wanted="$(sha256sum <requirements.lock | cut -d' ' -f1) $(version_of "$python") $(uname -m)"
    if [ -x "$venv/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && "$venv/bin/python" -c ''; then
        return 0
    fi
    build_venv "$python" "$wanted"
    say "ready"
}

main "$@"
