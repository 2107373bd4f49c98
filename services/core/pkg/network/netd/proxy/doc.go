// Package proxy is the transparent proxy of machines whose policies have names
// in them: every TCP connection of theirs arrives here, whatever its
// destination.
//
// What comes first decides. A TLS ClientHello tells the host's name (SNI): the
// connection is passed on untouched, or, where a secret is bound to the host,
// ended here and opened anew. HTTP/1 is served request by request, each decided
// by its own Host, so that a connection that is kept alive, or a smuggled
// request, is no way to another host. All else tells no name and is decided by
// its address; there a server may speak first, so the destination is dialled
// while the machine's first bytes are waited for.
//
// A name is resolved here, and the address that the machine chose is ignored.
// Names that lead to what the operator refuses (DNS rebinding) lead nowhere.
//
// What parses what machines send is the standard library's: crypto/tls reads
// the ClientHello, net/http requests.
package proxy
