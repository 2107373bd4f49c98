// Package client is a typed client of the API, version 1: one method per
// route, and two things that take care to get right: [Stream], an execution's
// input and output that survive any disconnect without a lost or doubled byte,
// and requests that are repeated only where repeating is safe.
//
// Every error is an *errors.Error with the server's code, message and hint; a
// cause of type *[Problem] carries the rest of the server's answer.
package client
