// Package network gives machines their user and network namespaces.
package network
