#!/usr/bin/env bash
# Installs BUILD_DIR into a temporary folder, builds consumer/ against it and runs it.
# usage: package_test.sh BUILD_DIR SOURCE_DIR CXX_COMPILER
set -euo pipefail
build=$1 source=$2 compiler=$3
prefix=$(mktemp -d)
trap 'rm -rf "$prefix"' EXIT

cmake --install "$build" --prefix "$prefix/usr" >"$prefix/install.log"
for program in tributary tributary-coordinator tributary-gpu-worker tributary-cpu-attention; do
  version=$("$prefix/usr/bin/$program" --version)
  [[ $version =~ [0-9]+\.[0-9]+\.[0-9]+\ \(([0-9a-f]+|unknown)\) ]] ||
    { echo "$program --version says: $version"; exit 1; }
  if grep -qF "$source/" "$prefix/usr/bin/$program"; then
    echo "$program names a folder of the build: $(strings "$prefix/usr/bin/$program" | grep -F "$source/" | head -3)"
    exit 1
  fi
done

# What `tributary eval` makes tokens with lies beside it.
python3 "$prefix/usr/bin/tributary-tokenizer.py" --help >"$prefix/help.log"

cmake -S "$source/tests/package/consumer" -B "$prefix/consumer" -DCMAKE_PREFIX_PATH="$prefix/usr" \
  -DCMAKE_CXX_COMPILER="$compiler" >"$prefix/configure.log" || { cat "$prefix/configure.log"; exit 1; }
cmake --build "$prefix/consumer" >"$prefix/build.log" || { cat "$prefix/build.log"; exit 1; }
"$prefix/consumer/consumer"
