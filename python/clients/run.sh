#!/bin/sh
# python/clients/run.sh ARGS: pytest of build/clients on this folder, as ctest runs it. Exits with 77, which ctest calls
# skipped, if ./dev setup clients has not made build/clients.
cd "$(dirname "$0")" || exit 1
if ! cmp -s requirements.txt ../../build/clients/installed.txt || [ ! -x ../../build/python/bin/python ]; then
  echo "skipped: build/clients is not made of python/clients/requirements.txt; ./dev setup clients does it"
  exit 77
fi
exec ../../build/clients/bin/python -m pytest -q -c /dev/null --rootdir . -p no:cacheprovider "$@" .
