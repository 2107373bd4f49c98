module github.com/aetherium/aetherium/libs/types

go 1.26.0

require github.com/aetherium/aetherium/libs/common v0.0.0-00010101000000-000000000000

replace github.com/aetherium/aetherium/libs/common => ../common
