#!/usr/bin/env bash
# A cluster on this host, each process started by hand: what `tributary cluster up` does, to read and to change.
# usage: deploy/local/run_cluster.sh [MODEL_DIR] [CPU_NODES]      PORT=7000 sets the coordinator's port
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

model=${1:-models/probe}
cpu_nodes=${2:-2}
port=${PORT:-7000}
bin=build/bin
logs=$(mktemp -d /tmp/tributary-XXXXXX)
pids=()

stop() {
  trap - INT TERM EXIT
  # The coordinator first, so that it can let running requests end.
  for pid in "${pids[@]}"; do
    kill -TERM "$pid" 2>/dev/null || true
    wait "$pid" || true
  done
  echo "stopped; logs are in $logs"
}
trap stop INT TERM EXIT

start() {
  local name=$1
  shift
  "$@" --metrics-listen 127.0.0.1:0 --port-file "$logs/$name.json" >"$logs/$name.log" 2>&1 &
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

echo "build/bin/tributary status --coordinator 127.0.0.1:$port"
echo "Ctrl-C stops all of them; logs are in $logs"
wait -n "${pids[@]}" || true
echo "a process has ended:" && tail -n 2 "$logs"/*.log
