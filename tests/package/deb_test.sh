#!/usr/bin/env bash
# Makes the Debian package of BUILD_DIR, looks at what it says and holds, unpacks it into a temporary folder and runs
# `tributary demo` from there. usage: deb_test.sh BUILD_DIR SOURCE_DIR
set -euo pipefail
build=$1 source=$2
for tool in dpkg-deb dpkg-shlibdeps file; do
  command -v "$tool" >/dev/null || { echo "skipped: there is no $tool here"; exit 77; }
done
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
fail() { echo "$*" >&2; exit 1; }

cpack --config "$build/CPackConfig.cmake" -B "$folder/cpack" >"$folder/cpack.log" 2>&1 ||
  fail "$(cat "$folder/cpack.log")"
package=("$folder"/cpack/tributary_*.deb)
[ ${#package[@]} -eq 1 ] || fail "there are ${#package[@]} packages"

# What it needs: the shared libraries that were linked, the one that is loaded later, and Python.
[ "$(dpkg-deb -f "${package[0]}" Package)" = tributary ] || fail "another name"
needs=$(dpkg-deb -f "${package[0]}" Depends)
for name in libc6 libgrpc++ libucx0 libisal2 libssl3 libmicrohttpd12 libopenblas0-pthread 'python3 (>= 3.10)'; do
  [[ $needs == *"$name"* ]] || fail "the package does not depend on $name but on $needs"
done

# What it holds, and where; nothing else lies outside the folders that are named here.
dpkg-deb -c "${package[0]}" | awk '{print substr($6, 2)}' >"$folder/content"
services=(tributary-coordinator tributary-gpu-worker tributary-cpu-attention)
wanted=(/usr/bin/tributary /usr/bin/tributary-tokenizer.py /usr/libexec/tributary/demo.py
  /usr/libexec/tributary/needles.py /usr/share/tributary/models/probe/model.safetensors
  /usr/share/tributary/deploy/README.md /usr/share/doc/tributary/LICENSE)
for service in "${services[@]}"; do
  wanted+=("/usr/bin/$service" "/usr/lib/systemd/system/$service.service" "/etc/default/$service")
done
for path in "${wanted[@]}"; do
  grep -qxF "$path" "$folder/content" || fail "the package has no $path"
done
ours='usr/(bin|libexec/tributary|lib/systemd/system)/[^/]+|usr/share/(doc/)?tributary/.+|etc/default/tributary-[a-z-]+'
ours+='|usr/share/bash-completion/completions/tributary|usr/share/man/man1/tributary[a-z.-]*1(.gz)?'
others=$(grep -v '/$' "$folder/content" | grep -vE "^/($ours)\$" || true)
[ -z "$others" ] || fail "the package has $others, too"
dpkg-deb -e "${package[0]}" "$folder/control"
for service in "${services[@]}"; do
  grep -qxF "/etc/default/$service" "$folder/control/conffiles" || fail "/etc/default/$service is no conffile"
done
for script in postinst prerm postrm; do
  [ -x "$folder/control/$script" ] && sh -n "$folder/control/$script" || fail "$script is no script"
done

# Where it was built stands in no program.
dpkg-deb -x "${package[0]}" "$folder/root"
found=$(grep -rlaF -e "$source/" -e "$build/" "$folder/root/usr/bin" || true)
[ -z "$found" ] || fail "these name a folder of the build: $found"

# It runs where it was put, without the source's folder, a compiler, or anything of this environment.
cd /
env -i PATH=/usr/bin:/bin "$folder/root/usr/bin/tributary" demo --bytes 1600 --codes 1 --seed 3 --window-tokens 128 \
  --sink-tokens 16 >"$folder/demo.log" 2>&1 || fail "$(cat "$folder/demo.log")"
grep -q 'PASS 1 of 1 codes recalled' "$folder/demo.log" || fail "$(cat "$folder/demo.log")"

left=$(ls "$folder/root/usr/libexec/tributary")
[ "$left" = $'demo.py\nneedles.py' ] || fail "the demo left files beside it: $left"

# Half a package says what is missing.
rm "$folder/root/usr/libexec/tributary/demo.py"
status=0
said=$("$folder/root/usr/bin/tributary" demo 2>&1) || status=$?
[[ $status -eq 1 && $said == *"libexec/tributary/demo.py"*"install the whole package"* ]] ||
  fail "status $status: $said"
