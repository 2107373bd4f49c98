// Package api holds what crosses the wire of the REST and WebSocket API,
// version 1: request and response bodies, stream frames and the names of
// headers. Server and clients share it.
//
// Conventions: JSON in snake_case; times are RFC 3339 in UTC; durations are
// whole milliseconds in fields ending in _ms; sizes are bytes in fields ending
// in _bytes; CPU is thousandths of a core in milli_cpu. Unknown fields in a
// request are refused. Bounds stand in the struct tags, in the JSON Schema
// vocabulary that the server's OpenAPI generator reads; the package itself
// depends on nothing.
package api

// BasePath is where version 1 of the API lives.
const BasePath = "/api/v1"

// E2BPath is where the control plane lives that SDKs of E2B's kind speak with.
const E2BPath = "/e2b"

// Subprotocol is the WebSocket subprotocol of every stream. A browser, which
// cannot set headers, adds a second one: BearerProtocolPrefix + key.
const (
	Subprotocol          = "aetherium.v1"
	BearerProtocolPrefix = "bearer."
)

// Names of headers that are not in net/http's usual vocabulary.
const (
	HeaderAPIKey         = "X-API-Key"
	HeaderRequestID      = "X-Request-Id"
	HeaderProject        = "X-Aetherium-Project"   // ID or name of the project that is meant, where the credentials are good for several
	HeaderExecution      = "X-Aetherium-Execution" // the ID that the body gives an execution: it is looked for while the credentials are
	HeaderIdempotencyKey = "Idempotency-Key"
	HeaderReplayed       = "Idempotency-Replayed"     // "true": the answer of an earlier request with the same key
	HeaderEventCursor    = "X-Aetherium-Event-Cursor" // of a stream of events: after which it begins
	HeaderPrefer         = "Prefer"                   // "respond-async" (RFC 7240)
	HeaderPreviewToken   = "X-Aetherium-Token"        // a VM's preview token, for header clients of preview URLs
	HeaderE2BToken       = "E2b-Traffic-Access-Token"
	HeaderE2BAgentToken  = "X-Access-Token"
	HeaderE2BSandbox     = "E2b-Sandbox-Id"
	HeaderE2BPort        = "E2b-Sandbox-Port"
	HeaderFileMode       = "X-File-Mode" // octal permission bits
	HeaderFileOwner      = "X-File-Owner"
	HeaderFileGroup      = "X-File-Group"
	HeaderFileType       = "X-File-Type"
)

// PreviewLinkParam is the query parameter that carries a one-time link's secret.
const PreviewLinkParam = "aeth_token"

// List is one page of a list.
type List[T any] struct {
	Items []T `json:"items" nullable:"false"`
	// NextCursor asks for the next page; empty on the last.
	NextCursor string `json:"next_cursor" doc:"Cursor of the next page; empty on the last"`
}
