module github.com/aetherium/aetherium/services/k8s-manager

go 1.26.0

require github.com/aetherium/aetherium/libs/types v0.0.0-00010101000000-000000000000

require github.com/aetherium/aetherium/libs/common v0.0.0-00010101000000-000000000000 // indirect

replace github.com/aetherium/aetherium/libs/common => ../../libs/common

replace github.com/aetherium/aetherium/libs/types => ../../libs/types

replace github.com/aetherium/aetherium/services/core => ../core
