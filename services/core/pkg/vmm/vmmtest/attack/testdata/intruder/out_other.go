//go:build !amd64

package main

func out(uint16, byte) {}
