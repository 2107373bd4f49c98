// Package api is the REST API: typed handlers, one file per resource, over the
// interfaces of package vmm, from which the OpenAPI document is generated.
//
// Bodies are JSON with unknown fields refused; files, tars, output and build
// logs are streamed. Everything from outside is bounded by the operations'
// schemas before a handler sees it.
package api
