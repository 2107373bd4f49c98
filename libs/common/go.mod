module github.com/aetherium/aetherium/libs/common

go 1.26.0
