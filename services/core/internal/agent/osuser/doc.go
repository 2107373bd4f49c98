// Package osuser knows the machine's OS users and acts with their rights.
//
// Users are read from /etc/passwd and /etc/group without cgo or NSS: a machine's
// users are in its files, and a lookup must not start a resolver. The parsed
// files are kept until they change.
package osuser
