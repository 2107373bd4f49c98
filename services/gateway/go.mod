module github.com/aetherium/aetherium/services/gateway

go 1.26.0

require (
	github.com/aetherium/aetherium/libs/common v0.0.0-00010101000000-000000000000
	github.com/aetherium/aetherium/libs/types v0.0.0-00010101000000-000000000000
	github.com/aetherium/aetherium/services/core v0.0.0-00010101000000-000000000000
)

require (
	github.com/coder/websocket v1.8.15 // indirect
	github.com/danielgtaylor/huma/v2 v2.37.2 // indirect
	github.com/go-chi/chi/v5 v5.5.0 // indirect
	github.com/prometheus/client_golang v1.25.0 // indirect
)

replace github.com/aetherium/aetherium/libs/common => ../../libs/common

replace github.com/aetherium/aetherium/libs/types => ../../libs/types

replace github.com/aetherium/aetherium/services/core => ../core
