// Package docker makes machines of containers of a Docker engine on this host:
// for development, and for hosts where Docker is what there is.
//
// The engine is the store of facts: a machine is the container that bears its
// label, a template's build an image that was made of its root filesystem once,
// a snapshot a committed image. What the driver keeps beside it is small: the
// files that say who a machine is, and which run of it was wholly begun.
//
// The agent is the container's first process, bind-mounted read-only. It is
// heard over the attached standard streams of the container, which carry the
// multiplexer of package mux: another process attaches again and both go on.
//
// Containers have network mode none. A machine's link is the worker's own, put
// into the container's namespace, with the same rules as every other machine's.
package docker
