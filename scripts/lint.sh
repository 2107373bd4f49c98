#!/usr/bin/env bash
# golangci-lint in every module (or the ones given), and shellcheck on scripts.
# The linter is built once from its Go module into .tools/.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
cd "$ROOT"

version=v2.15.0
linter="$ROOT/.tools/golangci-lint-$version"
if [ ! -x "$linter" ]; then
  say "building golangci-lint $version (once)"
  mkdir -p .tools
  tmp=$(mktemp -d)
  CGO_ENABLED=0 GOWORK=off GOBIN="$tmp" "${GO:-go}" install "github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$version"
  mv "$tmp/golangci-lint" "$linter"
  rmdir "$tmp"
fi

modules=("$@")
[ ${#modules[@]} -gt 0 ] || modules=(libs/common libs/types services/core services/gateway services/k8s-manager services/standalone tests)
status=0
for m in "${modules[@]}"; do
  say "lint $m"
  (cd "$m" && "$linter" run --config "$ROOT/.golangci.yml" ./...) || status=1
done
if [ $# -eq 0 ]; then
  say "shellcheck"
  command -v shellcheck >/dev/null || scripts/install-deps.sh --test
  git ls-files -co --exclude-standard '*.sh' .ci/run | xargs shellcheck -x || status=1
  make fmt-check || status=1
fi
exit $status
