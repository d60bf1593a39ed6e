#!/bin/sh
# python/run.sh ARGS: build/python's Python, in this folder, as ctest runs it. Exits with 77, which ctest calls skipped,
# if ./dev setup python has not made build/python of these requirements.
cd "$(dirname "$0")" || exit 1
if ! cmp -s requirements.txt ../build/python/installed.txt; then
  echo "skipped: build/python is not made of python/requirements.txt; ./dev setup python does it, where there is a" \
    "package registry"
  exit 77
fi
exec ../build/python/bin/python "$@"
