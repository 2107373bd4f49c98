// Package fleet says which processes are an installation's workers and gateways,
// and how each knows the other. [Authority] signs who they are; [Service] is the
// use cases by which a worker joins and stays; package identity is a worker's
// side of it.
//
// A gateway is known by a certificate for clients with the name [GatewayName], a
// worker by one for servers with the name that [WorkerName] makes of its ID.
// Neither can be used in the other's place: a worker that is taken over cannot
// tell another worker what to do.
//
// A worker joins by a token, which works once. What is secret of it never leaves
// the worker: it signs what the worker asks for, and the answer is known by the
// authority's hash, which the token carries, too. So it does not matter what is
// between the two, and whose certificate the gateway's own server has.
package fleet
