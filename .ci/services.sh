# What ./run and ./test share: installing what is missing, and a RabbitMQ of one's own. Sourced, never run.
# shellcheck shell=bash

say() { printf '==> %s\n' "$*"; }

# fail WHAT [WHAT_TO_DO]
fail() {
    printf '\n%s: %s\n' "$(basename "$0")" "$1" >&2
    if [ $# -gt 1 ]; then printf '    %s\n' "$2" >&2; fi
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# True if something listens on HOST PORT.
listens() { (exec 3<>"/dev/tcp/$1/$2") 2>/dev/null; }

# As root, or with sudo.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif have sudo; then
        sudo "$@"
    else
        fail "this needs root: $*" "Run it as root, or install sudo."
    fi
}

apt_updated=
# install WHY PACKAGE… installs packages of the distribution, without starting the services in them: a packaged RabbitMQ
# would listen on every address.
install() {
    local why=$1 guard=/usr/sbin/policy-rc.d guarded='' log
    shift
    have apt-get || fail "$why is missing, and this is no Debian or Ubuntu" "Install it by hand: $*"
    say "installing $* ($why)"
    log=$(mktemp)
    if [ -z "$apt_updated" ]; then
        as_root apt-get update -qq >"$log" 2>&1 ||
            { cat "$log" >&2; rm -f "$log"; fail "apt-get update failed" "Is this machine online?"; }
        apt_updated=1
    fi
    if [ ! -e "$guard" ]; then
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$guard" >/dev/null
        as_root chmod +x "$guard"
        guarded=1
    fi
    local installed=1
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" >"$log" 2>&1 ||
        installed=
    if [ -n "$guarded" ]; then as_root rm -f "$guard"; fi
    if [ -z "$installed" ]; then
        tail -n 20 "$log" >&2
        rm -f "$log"
        fail "apt-get install $* failed" "Its last words are above."
    fi
    rm -f "$log"
    case " $* " in
    *" rabbitmq-server "*)
        # Nor at the next boot.
        if [ -d /run/systemd/system ]; then as_root systemctl disable -q rabbitmq-server || true; fi
        ;;
    esac
}

need_build_tools() {
    if ! have cargo && [ -x "$HOME/.cargo/bin/cargo" ]; then PATH="$HOME/.cargo/bin:$PATH"; fi
    have cargo || fail "cargo is missing" "Install Rust: https://rustup.rs"
    if ! have cc; then install "a C compiler, for SQLite and TLS" gcc libc6-dev; fi
}

# The newest folder of RabbitMQ's own scripts: those on the PATH of a Debian insist on the system's user and node.
rabbitmq_scripts() {
    local folder newest=
    for folder in /usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin; do
        if [ -x "$folder/rabbitmq-server" ]; then newest=$folder; fi
    done
    printf '%s' "$newest"
}

need_rabbitmq() {
    if [ -z "$(rabbitmq_scripts)" ]; then install "RabbitMQ" rabbitmq-server; fi
}

need_postgres() {
    local bin
    for bin in /usr/lib/postgresql/*/bin/initdb; do
        if [ -x "$bin" ]; then return; fi
    done
    if ! have initdb; then install "Postgres" postgresql; fi
}

# For the samples in Python and JavaScript; their packages come from PyPI and npm, into the target folder.
need_sample_languages() {
    if ! python3 -m pip --version >/dev/null 2>&1; then install "pip, for the sample in Python" python3-pip; fi
    if ! have npm; then install "npm, for the sample in JavaScript" npm; fi
}

# free_port FROM prints the first port from FROM on that nobody listens on.
free_port() {
    local port=$1
    while listens 127.0.0.1 "$port"; do port=$((port + 1)); done
    printf '%s' "$port"
}

rabbitmq_pid=
rabbitmq_epmd=
# start_rabbitmq FOLDER PORT starts a node that has nothing to do with any other on this machine: its own folder, name, cookie
# and port mapper, and only on loopback. stop_rabbitmq ends it.
start_rabbitmq() {
    local folder=$1 port=$2 waited=0 dist epmd
    dist=$(free_port 25700)
    epmd=$(free_port $((dist + 1)))
    mkdir -p "$folder/home"
    printf 'listeners.tcp.1 = 127.0.0.1:%s\nloopback_users = none\n' "$port" >"$folder/rabbitmq.conf"
    printf '[].\n' >"$folder/plugins"
    : >"$folder/env.conf"
    env HOME="$folder/home" \
        ERL_EPMD_ADDRESS=127.0.0.1 ERL_EPMD_PORT="$epmd" \
        RABBITMQ_NODENAME="sagad-$port@localhost" \
        RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 RABBITMQ_NODE_PORT="$port" RABBITMQ_DIST_PORT="$dist" \
        RABBITMQ_MNESIA_BASE="$folder/data" RABBITMQ_LOG_BASE="$folder/log" RABBITMQ_PID_FILE="$folder/pid" \
        RABBITMQ_CONFIG_FILE="$folder/rabbitmq.conf" RABBITMQ_ENABLED_PLUGINS_FILE="$folder/plugins" \
        RABBITMQ_CONF_ENV_FILE="$folder/env.conf" \
        RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="+sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}" \
        setsid "$(rabbitmq_scripts)/rabbitmq-server" >"$folder/console" 2>&1 </dev/null &
    rabbitmq_pid=$!
    rabbitmq_epmd=$epmd
    until listens 127.0.0.1 "$port"; do
        if ! kill -0 "$rabbitmq_pid" 2>/dev/null || [ "$waited" -ge 600 ]; then
            tail -n 20 "$folder/console" >&2
            fail "RabbitMQ did not start" "Its last words are above."
        fi
        sleep 0.1
        waited=$((waited + 1))
    done
}

stop_rabbitmq() {
    # 0 said outright: in a trap, a bare `return` passes on the status that the script ends with.
    if [ -z "$rabbitmq_pid" ]; then return 0; fi
    kill "$rabbitmq_pid" 2>/dev/null || true
    wait "$rabbitmq_pid" 2>/dev/null || true
    # The port mapper outlives the node that started it.
    ERL_EPMD_PORT=$rabbitmq_epmd epmd -kill >/dev/null 2>&1 || true
    rabbitmq_pid=
}
