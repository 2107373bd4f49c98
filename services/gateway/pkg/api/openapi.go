package api

import (
	"encoding/json"
	"net/http"
	"reflect"
	"sync"

	"github.com/danielgtaylor/huma/v2"

	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

func (a *API) config() huma.Config {
	registry := huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer)
	c := huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info: &huma.Info{
				Title: "Aetherium", Version: a.Version,
				Description: "Machines for AI agents: isolated VMs in milliseconds, commands with live output, files, ports, snapshots and forks.\n\n" +
					"Errors are `application/problem+json` with a stable `code`. A POST with an `Idempotency-Key` may be repeated. " +
					"Wherever a path names a VM, its ID or its name will do.\n\n" +
					"What credentials give is one of the scopes read, run, manage and admin, each of which includes those before it; `x-required-scope` is what an operation needs. " +
					"Where credentials are good for several projects, the header `" + wire.HeaderProject + "` says which is meant.",
			},
			Servers: []*huma.Server{{URL: wire.BasePath}},
			Components: &huma.Components{
				Schemas: registry,
				SecuritySchemes: map[string]*huma.SecurityScheme{
					"bearer": {Type: "http", Scheme: "bearer", Description: "A key or an access token, as Authorization: Bearer"},
					"key":    {Type: "apiKey", In: "header", Name: wire.HeaderAPIKey, Description: "A key"},
				},
			},
			Tags: []*huma.Tag{
				{Name: "VMs", Description: "Isolated machines and their life cycle"},
				{Name: "Executions", Description: "Commands in VMs, their journaled output and exit codes"},
				{Name: "Files", Description: "Files in VMs"},
				{Name: "Ports", Description: "Servers in VMs, seen from outside"},
				{Name: "Snapshots", Description: "Frozen states that VMs start from"},
				{Name: "Volumes", Description: "Directories that outlive VMs, and that several VMs have at once"},
				{Name: "Templates", Description: "What VMs are made from"},
				{Name: "Tools", Description: "Programs that VMs can be given beside their template"},
				{Name: "Secrets", Description: "Values that VMs are given by name, written but never read back"},
				{Name: "Tasks", Description: "Asynchronous work"},
				{Name: "Archives", Description: "What is kept of what ended long ago"},
				{Name: "Access", Description: "Who asks, and short-lived tokens"},
				{Name: "Keys", Description: "API keys of a project"},
				{Name: "Members", Description: "Users' roles in a project"},
				{Name: "Webhooks", Description: "Where a project's events are told, signed, and what became of it"},
				{Name: "Projects", Description: "Tenants, each with VMs, templates, secrets and keys of its own"},
				{Name: "Users", Description: "People, across projects"},
				{Name: "Fleet", Description: "Nodes, drivers and the server itself"},
				{Name: "Events", Description: "What happened, in order"},
			},
		},
		Formats:                      map[string]huma.Format{"application/json": huma.DefaultJSONFormat, "json": huma.DefaultJSONFormat},
		DefaultFormat:                "application/json",
		RejectUnknownQueryParameters: true,
		Transformers:                 []huma.Transformer{a.transform},
	}
	return c
}

func schemaOf[T any](a *API) *huma.Schema {
	return a.huma.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[T](), true, "")
}

// jsonOf documents an answer in JSON.
func jsonOf[T any](a *API, description string) *huma.Response {
	return &huma.Response{Description: description, Content: map[string]*huma.MediaType{"application/json": {Schema: schemaOf[T](a)}}}
}

func (a *API) problemResponse() *huma.Response {
	return &huma.Response{
		Description: "An error, with a stable code",
		Content:     map[string]*huma.MediaType{wire.ProblemContentType: {Schema: schemaOf[wire.Problem](a)}},
	}
}

func binary(media string) map[string]*huma.MediaType {
	return map[string]*huma.MediaType{media: {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}}
}

// binaryBody documents a request body that is streamed, and may be empty.
func binaryBody(media, description string) *huma.RequestBody {
	return &huma.RequestBody{Description: description, Content: binary(media)}
}

func binaryResponse(media, description string) *huma.Response {
	return &huma.Response{Description: description, Content: binary(media)}
}

// eventStream documents an answer in server-sent events (WHATWG HTML §9.2) by
// one event; its data is JSON of one of the schemas.
func eventStream(description string, data ...*huma.Schema) *huma.Response {
	content := data[0]
	if len(data) > 1 {
		content = &huma.Schema{AnyOf: data}
	}
	text := func(doc string) *huma.Schema { return &huma.Schema{Type: huma.TypeString, Description: doc} }
	payload := text("JSON")
	payload.Extensions = map[string]any{"contentMediaType": "application/json", "contentSchema": content}
	event := &huma.Schema{Type: huma.TypeObject, Properties: map[string]*huma.Schema{
		"event": text("What the data is"), "id": text("Where to go on: for Last-Event-ID"), "data": payload,
	}}
	return &huma.Response{Description: description, Content: map[string]*huma.MediaType{"text/event-stream": {Schema: event}}}
}

// outputEvents documents an execution as server-sent events.
func (a *API) outputEvents(description string, more ...*huma.Schema) *huma.Response {
	return eventStream(description, append([]*huma.Schema{schemaOf[wire.OutputEvent](a), schemaOf[wire.ServerControl](a)}, more...)...)
}

// upgradeResponse documents a WebSocket.
func upgradeResponse() *huma.Response {
	return &huma.Response{Description: "Switching to WebSocket, subprotocol " + wire.Subprotocol}
}

// healthOperations documents what is served outside of huma: /health and
// /ready need no key, and the document does not describe itself through itself.
func (a *API) healthOperations() {
	add := func(id, path, summary string, scope domain.Scope, media string, schema *huma.Schema) {
		op := &huma.Operation{
			OperationID: id, Method: http.MethodGet, Path: path, Summary: summary, Tags: []string{"Fleet"},
			Responses: map[string]*huma.Response{
				"200":     {Description: "OK", Content: map[string]*huma.MediaType{media: {Schema: schema}}},
				"default": a.problemResponse(),
			},
		}
		if scope != "" && a.needs(op, scope) {
			op.Security = []map[string][]string{{"bearer": {}}, {"key": {}}}
		}
		a.huma.OpenAPI().AddOperation(op)
	}
	text := &huma.Schema{Type: huma.TypeString}
	add("health", "/health", "Whether the server answers", "", "application/json", schemaOf[wire.Health](a))
	add("ready", "/ready", "Whether the server can work", "", "application/json", schemaOf[wire.Health](a))
	add("metrics", "/metrics", "Metrics for Prometheus", domain.ScopeAdmin, "text/plain", text)
	add("openapi-json", "/openapi.json", "This document", domain.ScopeRead, "application/json", &huma.Schema{Type: huma.TypeObject})
	add("openapi-yaml", "/openapi.yaml", "This document in YAML", domain.ScopeRead, "application/yaml", &huma.Schema{Type: huma.TypeObject})
}

// finishSchemas drops what huma registers for its own errors, which never leave.
func (a *API) finishSchemas() {
	a.start = schemaOf[wire.StartControl](a)
	schemaOf[wire.ClientControl](a) // streams' messages belong to the contract too
	schemaOf[wire.ServerControl](a)
	schemaOf[wire.OutputEvent](a)
	schemaOf[wire.FileEvent](a)
	schemas := a.huma.OpenAPI().Components.Schemas.Map()
	delete(schemas, "ErrorModel")
	delete(schemas, "ErrorDetail")
}

// Document serves the OpenAPI document.
func (a *API) Document() (asJSON, asYAML http.Handler) {
	serve := func(media string, render func() ([]byte, error)) http.Handler {
		once := sync.OnceValues(render)
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			text, err := once()
			if err != nil {
				writeProblem(w, err)
				return
			}
			w.Header().Set("Content-Type", media)
			_, _ = w.Write(text)
		})
	}
	return serve("application/json", func() ([]byte, error) { return json.Marshal(a.huma.OpenAPI()) }),
		serve("application/yaml", a.huma.OpenAPI().YAML)
}
