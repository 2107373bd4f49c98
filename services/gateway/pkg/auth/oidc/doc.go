// Package oidc lets in who shows an ID or access token of an identity provider
// (OpenID Connect Core 1.0, discovered as OpenID Connect Discovery 1.0 says).
//
// Only the signature's own keys say that a token is genuine: they come from the
// provider over TLS, bounded and within a time, and are kept; a token can
// neither bring a key nor name where one is, and asks for keys that nobody
// knows no more often than every few seconds.
package oidc
