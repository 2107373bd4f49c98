// Package e2b is the control plane as E2B's SDKs speak it, over the same
// services as our own API: a sandbox is a VM, and its ID the VM's. Both
// generations of routes are served, below [Prefix] on the API's hosts and at
// the root of the name api.<preview domain>.
//
// What the SDKs ask of a sandbox itself (processes, files, servers in it) does
// not come here: see package proxy.
package e2b
