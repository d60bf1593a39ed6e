#!/usr/bin/env bash
# A cluster on this host, each process started by hand: what `tributary cluster up` does, to read and to change.
# usage: deploy/local/run_cluster.sh [MODEL_DIR] [CPU_NODES]      PORT=7000 sets the coordinator's port
# Ctrl-C (or SIGTERM) lets running requests end; a second one stops at once.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

model=${1:-models/probe}
cpu_nodes=${2:-2}
port=${PORT:-7000}
bin=${TRIBUTARY_BIN:-build/bin}
if [ ! -x "$bin/tributary-coordinator" ]; then bin=$(dirname "$(command -v tributary-coordinator)"); fi # a package's
logs=$(mktemp -d /tmp/tributary-XXXXXX)
secret=$logs/cluster.secret # only who knows it may be a member of the cluster; gone with the script
(umask 077 && head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n' >"$secret")
pids=()

# stop STATUS
stop() {
  local pid at_once=
  trap - EXIT
  trap 'at_once=yes' INT TERM
  echo "stopping: running requests may end; Ctrl-C again stops at once"
  # The coordinator first, so that it can let running requests end.
  for pid in "${pids[@]}"; do
    kill -TERM "$pid" 2>/dev/null || true
    while kill -0 "$pid" 2>/dev/null; do
      if [ -z "$at_once" ]; then
        wait "$pid" || true
      else # the second signal that a process sees ends it; two in a row may be one to a busy process
        kill -TERM "$pid" 2>/dev/null || true
        sleep 0.2
      fi
    done
  done
  rm -f "$secret"
  echo "stopped; logs are in $logs"
  exit "$1"
}
trap 'stop 0' INT TERM
trap 'stop 1' EXIT # a process has ended, or did not start

# In a session of its own: a terminal's Ctrl-C goes to this script alone, which then stops them in order.
start() {
  local name=$1
  shift
  setsid "$@" --cluster-secret-file "$secret" --metrics-listen 127.0.0.1:0 --port-file "$logs/$name.json" \
    >"$logs/$name.log" 2>&1 &
  pids+=($!)
  until [ -s "$logs/$name.json" ]; do
    kill -0 "$!" 2>/dev/null || { tail -5 "$logs/$name.log" >&2; exit 1; }
    sleep 0.05
  done
  printf '%-10s pid %-7s %s\n' "$name" "$!" "$(tr -d '\n' <"$logs/$name.json")"
}

start coordinator "$bin/tributary-coordinator" --listen "127.0.0.1:$port"
for ((i = 0; i < cpu_nodes; i++)); do
  start "cpu-$i" "$bin/tributary-cpu-attention" --listen 127.0.0.1:0 --coordinator "127.0.0.1:$port" --node-id "cpu-$i"
done
start gpu-0 "$bin/tributary-gpu-worker" --listen 127.0.0.1:0 --coordinator "127.0.0.1:$port" --node-id gpu-0 \
  --model "$model" --device host

# They have their ports; now they register.
alive() { "$bin/tributary" status --json --coordinator "127.0.0.1:$port" | grep -o '"state":"alive"' | wc -l; }
until [ "$(alive)" -eq $((cpu_nodes + 1)) ]; do
  for pid in "${pids[@]}"; do kill -0 "$pid" 2>/dev/null || { tail -n 5 "$logs"/*.log >&2; exit 1; }; done
  sleep 0.1
done

echo "$bin/tributary status --coordinator 127.0.0.1:$port"
echo "Ctrl-C stops all of them; logs are in $logs"
wait -n "${pids[@]}" || true
echo "a process has ended:" && tail -n 2 "$logs"/*.log
