module github.com/aetherium/aetherium/tests

go 1.26.0

require (
	github.com/aetherium/aetherium/libs/common v0.0.0-00010101000000-000000000000
	github.com/aetherium/aetherium/libs/types v0.0.0-00010101000000-000000000000
	github.com/aetherium/aetherium/services/core v0.0.0-00010101000000-000000000000
)

replace github.com/aetherium/aetherium/libs/common => ../libs/common

replace github.com/aetherium/aetherium/libs/types => ../libs/types

replace github.com/aetherium/aetherium/services/core => ../services/core
