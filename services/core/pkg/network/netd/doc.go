// Package netd is the DNS forwarder of an instance's machines. It listens on
// the address of the instance's bridge and asks the host's resolvers.
//
// It is a process of its own (cmd/netd), so that machines resolve names while
// the worker is away. It takes queries from attackers: after binding it gives
// up root, and every query, client and connection counts against a bound. It
// passes on a question and nothing else of a query, so that nothing but names
// reaches the resolvers. What an answer points to is no concern of netd: the
// instance's egress rules decide what a machine can reach.
package netd
