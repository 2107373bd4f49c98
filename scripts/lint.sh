#!/usr/bin/env bash
# golangci-lint in every module (or the ones given); shellcheck on scripts and
# actionlint on workflows. The linters are built once into .tools/.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
cd "$ROOT"

linter=$(go_tool github.com/golangci/golangci-lint/v2/cmd/golangci-lint v2.15.0)

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
  say "workflows"
  actionlint=$(go_tool github.com/rhysd/actionlint/cmd/actionlint v1.7.12)
  "$actionlint" -shellcheck "$(command -v shellcheck)" .github/workflows/*.yml || status=1
fi
exit $status
