module github.com/aetherium/aetherium/services/standalone

go 1.26.0

require (
	github.com/aetherium/aetherium/libs/common v0.0.0-00010101000000-000000000000
	github.com/aetherium/aetherium/libs/types v0.0.0-00010101000000-000000000000
	github.com/aetherium/aetherium/services/core v0.0.0-00010101000000-000000000000
	github.com/aetherium/aetherium/services/gateway v0.0.0-00010101000000-000000000000
)

require (
	github.com/inconshreveable/mousetrap v1.1.0 // indirect
	github.com/spf13/cobra v1.10.2 // indirect
	github.com/spf13/pflag v1.0.10 // indirect
	golang.org/x/sys v0.49.0 // indirect
)

replace github.com/aetherium/aetherium/libs/common => ../../libs/common

replace github.com/aetherium/aetherium/libs/types => ../../libs/types

replace github.com/aetherium/aetherium/services/core => ../core

replace github.com/aetherium/aetherium/services/gateway => ../gateway
