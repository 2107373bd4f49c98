module github.com/aetherium/aetherium/services/core

go 1.26.0

require (
	github.com/aetherium/aetherium/libs/common v0.0.0-00010101000000-000000000000
	github.com/aetherium/aetherium/libs/types v0.0.0-00010101000000-000000000000
)

require (
	connectrpc.com/connect v1.21.1 // indirect
	github.com/google/go-containerregistry v0.22.1 // indirect
	github.com/klauspost/compress v1.20.3 // indirect
	golang.org/x/sync v0.24.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)

replace github.com/aetherium/aetherium/libs/common => ../../libs/common

replace github.com/aetherium/aetherium/libs/types => ../../libs/types
