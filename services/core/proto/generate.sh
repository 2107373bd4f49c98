#!/bin/sh
# Generates Go and Connect code from the .proto files with protoc alone; buf
# (buf.gen.yaml) gives the same. Plugins of the pinned versions are installed
# into $PROTO_BIN unless they are there.
set -eu

PROTOC_GEN_GO=v1.36.12
PROTOC_GEN_CONNECT_GO=v1.21.1

here=$(cd "$(dirname "$0")" && pwd)
bin=${PROTO_BIN:-$here/../../../bin/proto}
mkdir -p "$bin"
bin=$(cd "$bin" && pwd)

command -v protoc >/dev/null || {
	echo "protoc is missing: install protobuf-compiler and libprotobuf-dev" >&2
	exit 1
}
have() { [ -x "$bin/$1" ] && "$bin/$1" --version 2>&1 | grep -qF "${2#v}"; }
have protoc-gen-go "$PROTOC_GEN_GO" ||
	GOBIN="$bin" go install "google.golang.org/protobuf/cmd/protoc-gen-go@$PROTOC_GEN_GO"
have protoc-gen-connect-go "$PROTOC_GEN_CONNECT_GO" ||
	GOBIN="$bin" go install "connectrpc.com/connect/cmd/protoc-gen-connect-go@$PROTOC_GEN_CONNECT_GO"

cd "$here"
module=github.com/aetherium/aetherium/services/core
# shellcheck disable=SC2046 # one word per file, none has spaces
PATH="$bin:$PATH" protoc -I . \
	--go_out=.. --go_opt=module=$module \
	--connect-go_out=.. --connect-go_opt=module=$module \
	$(find . -name '*.proto' | sort)
