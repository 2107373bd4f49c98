// Package limit keeps callers from asking too much: buckets of tokens
// (golang.org/x/time/rate) for each key or user, for each client address, and,
// far smaller, for each address that shows credentials that are not valid.
//
// What counts for whom:
//
//   - A request with valid credentials takes from its user's bucket, or its
//     key's where that stands for no user. How much is left stands in the
//     headers RateLimit-Limit, RateLimit-Remaining and RateLimit-Reset.
//   - Every request takes from its address's bucket, but for loopback
//     addresses: there everybody has the same one, so it tells nobody apart.
//   - Credentials that are not valid take from their address's bucket of
//     failures. It is asked once they have failed, never before: valid
//     credentials pass, however many failures their address shares with them.
//     That lets a right guess through as well, but there is none: keys have
//     160 random bits and tokens are signed. What the limit saves is work and
//     the log.
//
// Addresses are IPv4 addresses and IPv6 networks of 64 bits: who has one
// address there has them all. Buckets are kept for those seen last; one that
// was dropped begins anew, full.
package limit
