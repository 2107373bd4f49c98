// Package nodelink is the way from a gateway to the worker that owns a VM, where
// the two are processes of their own: [Handler] serves a node, [Client] is the
// node at the other end, and both are a [service.Node].
//
// Each call is a request of HTTP/2 (RFC 9113), so that any number of them, and of
// streams that last, share a connection without one waiting for another, and
// the end of either side's context ends the call at both. A call is
// POST /node/v1/NAME. Its body is one line of JSON, what the call is given, and
// behind it the bytes that it sends, if it does; the answer is the same the
// other way round. An error before the first byte is a status of our table with
// the error as JSON, one behind it stands in the trailer. A connection to a
// guest's port is one of its own, taken over from HTTP/1.1 (RFC 9110, 7.8): it
// has a socket's deadlines, back pressure and half-closed state.
//
// Nothing is sent twice: a call whose answer was lost is told as Unavailable, and
// may have been carried out. What must not be done twice has an ID that the
// node knows again.
//
// Who may speak to whom is decided by TLS, which whoever serves a Handler and
// makes a Client gives: a node does what it is told.
package nodelink
