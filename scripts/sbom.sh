#!/usr/bin/env bash
# Writes what each binary in bin/ is made of, as CycloneDX JSON, to
# dist/NAME.cdx.json, and checks each against the binary: the modules that the
# linker put into it, with their versions, and no others. The files have
# neither serial numbers nor times, so the same binary gives the same file.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
cd "$ROOT"

command -v jq >/dev/null || scripts/install-deps.sh --test
generator=$(go_tool github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod v1.10.0)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
mkdir -p dist
mapfile -t names < <(jq -r '.modules[].binaries[]?' workspace.json)
for name in "${names[@]}"; do
  binary=$BIN/$name
  sbom=dist/$name.cdx.json
  [ -x "$binary" ] || { echo "$binary is not built: make build" >&2; exit 1; }
  "$generator" bin -json -noserial -notimestamp -std -version "$(cat VERSION)" -output "$tmp/sbom" "$binary"
  "${GO:-go}" version -m "$binary" >"$tmp/linked"
  # A module that is replaced by another stands in the line behind its own; ours
  # are replaced by directories, which are not told.
  awk -F'\t' '
    function flush() { if (module != "") print module "@" version }
    $2 == "dep" { flush(); module = $3; version = $4 }
    $2 == "=>" { module = $3; version = $4 }
    END { flush() }' "$tmp/linked" | sort >"$tmp/want"
  awk -F'[: ]+' 'NR == 1 { print "std@" $2 }' "$tmp/linked" | sort - "$tmp/want" -o "$tmp/want"
  jq -r '.components[] | .name + "@" + .version' "$tmp/sbom" | sort >"$tmp/got"
  if ! diff -u "$tmp/want" "$tmp/got" >&2; then
    echo "$sbom would not list what is in $binary (- linked, + listed)" >&2
    exit 1
  fi
  mv "$tmp/sbom" "$sbom"
  chmod 0644 "$sbom"
  echo "$sbom: $(wc -l <"$tmp/got") components"
done
