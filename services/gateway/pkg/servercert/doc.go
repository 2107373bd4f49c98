// Package servercert gives a TLS server its certificate: one of an authority
// that belongs to this installation alone and is good for its own names only,
// or what somebody keeps in files. Both are renewed while the server runs.
package servercert
