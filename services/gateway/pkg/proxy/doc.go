// Package proxy shows servers inside VMs to the outside: previews on origins
// of their own, <port>-<id>.<domain>, and the path form of the API for clients
// that send headers.
//
// A guest is not trusted. It never sees credentials of ours, never sets our
// cookies, and its pages run on an origin where the API does not answer; in
// the path form, which shares the API's origin, nothing it sends is run.
package proxy
