package gateway_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

var update = flag.Bool("update", false, "write golden files anew")

type document struct {
	OpenAPI    string                                `json:"openapi"`
	Info       struct{ Title, Version string }       `json:"info"`
	Paths      map[string]map[string]json.RawMessage `json:"paths"`
	Components struct {
		Schemas         map[string]json.RawMessage `json:"schemas"`
		SecuritySchemes map[string]any             `json:"securitySchemes"`
	} `json:"components"`
}

// keyless are the operations of who has no key, and shows something else.
var keyless = map[string]bool{"join-worker": true, "renew-worker": true}

type operation struct {
	OperationID string                      `json:"operationId"`
	Summary     string                      `json:"summary"`
	Tags        []string                    `json:"tags"`
	Security    []map[string][]string       `json:"security"`
	Scope       string                      `json:"x-required-scope"`
	Description string                      `json:"description"`
	Parameters  []struct{ Name, In string } `json:"parameters"`
	RequestBody *struct {
		Content map[string]any `json:"content"`
	} `json:"requestBody"`
	Responses map[string]struct {
		Description string         `json:"description"`
		Content     map[string]any `json:"content"`
	} `json:"responses"`
}

func TestOpenAPI(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	_, raw := l.want(200, req{method: "GET", path: "/openapi.json"})
	var doc document
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(doc.OpenAPI, "3.1.") || doc.Info.Version != "1.2.3-test" || len(doc.Components.SecuritySchemes) != 2 {
		t.Fatalf("%s %+v", doc.OpenAPI, doc.Info)
	}
	// Every reference leads somewhere.
	for _, m := range regexp.MustCompile(`"\$ref":"([^"]*)"`).FindAllSubmatch(raw, -1) {
		name, ok := strings.CutPrefix(string(m[1]), "#/components/schemas/")
		if _, found := doc.Components.Schemas[name]; !ok || !found {
			t.Errorf("%s leads nowhere", m[1])
		}
	}
	for _, name := range []string{"Problem", "ClientControl", "ServerControl", "StartControl", "OutputEvent", "FileEvent", "Event"} {
		if doc.Components.Schemas[name] == nil {
			t.Errorf("%s is not described", name)
		}
	}
	if strings.Contains(string(raw), "ErrorModel") {
		t.Error("huma's own error shows")
	}
	// A server-sent event is described as what its readers get of it.
	for _, m := range regexp.MustCompile(`"text/event-stream":\{"schema":.{0,600}`).FindAll(raw, -1) {
		if !bytes.Contains(m, []byte(`"contentSchema":{"anyOf":[{"$ref":`)) {
			t.Errorf("events are not described: %s", m)
		}
	}
	ids := map[string]bool{}
	var golden []string
	for _, path := range slices.Sorted(maps.Keys(doc.Paths)) {
		for _, method := range slices.Sorted(maps.Keys(doc.Paths[path])) {
			var op operation
			if err := json.Unmarshal(doc.Paths[path][method], &op); err != nil {
				t.Fatal(err)
			}
			name := method + " " + path
			if op.OperationID == "" || ids[op.OperationID] || op.Summary == "" || len(op.Tags) != 1 || len(op.Responses) == 0 {
				t.Errorf("%s: not well described: %+v", name, op)
			}
			ids[op.OperationID] = true
			if open := path == "/health" || path == "/ready" || keyless[op.OperationID]; (len(op.Security) == 0) != open {
				t.Errorf("%s: security %v", name, op.Security)
			} else if (op.Scope == "") != open || !open && !strings.Contains(op.Description, "the scope `"+op.Scope+"`") {
				t.Errorf("%s: scope %q, %s", name, op.Scope, op.Description)
			}
			for _, p := range regexp.MustCompile(`\{(\w+)\}`).FindAllStringSubmatch(path, -1) {
				if !slices.ContainsFunc(op.Parameters, func(q struct{ Name, In string }) bool { return q.Name == p[1] && q.In == "path" }) {
					t.Errorf("%s: parameter %s is not described", name, p[1])
				}
			}
			for status, r := range op.Responses {
				if r.Description == "" {
					t.Errorf("%s: answer %s is not described", name, status)
				}
			}
			if r := op.Responses["default"]; op.OperationID != "forward-port" && r.Content["application/problem+json"] == nil {
				t.Errorf("%s: errors are not described", name)
			}
			line := fmt.Sprintf("%-6s %s %s [%s] ->", strings.ToUpper(method), path, op.OperationID, op.Scope)
			for _, status := range slices.Sorted(maps.Keys(op.Responses)) {
				line += " " + status
				for _, media := range slices.Sorted(maps.Keys(op.Responses[status].Content)) {
					line += "(" + media + ")"
				}
			}
			golden = append(golden, line)
		}
	}
	file := filepath.Join("testdata", "operations.txt")
	text := strings.Join(golden, "\n") + "\n"
	if *update {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if text != string(want) {
		t.Errorf("the operations are not those of %s (-update writes it anew):\n%s", file, text)
	}
	// Each operation has a handler, and each handler an operation: what the
	// document names is routed.
	for _, line := range golden {
		method, rest, _ := strings.Cut(line, " ")
		path := strings.Fields(rest)[0]
		path = regexp.MustCompile(`\{id\}`).ReplaceAllString(path, "aaaaaaaaaaaaaaaaaaaa")
		path = regexp.MustCompile(`\{port\}`).ReplaceAllString(path, "80")
		path = regexp.MustCompile(`\{\w+\}`).ReplaceAllString(path, "some-name")
		resp, body := l.do(req{method: method, path: path})
		if resp.StatusCode == http.StatusMethodNotAllowed || strings.Contains(string(body), "nothing at this path") {
			t.Errorf("%s: %d %s", line, resp.StatusCode, body)
		}
	}
	_, yaml := l.want(200, req{method: "GET", path: "/openapi.yaml"})
	if !strings.Contains(string(yaml), "operationId: create-vm") {
		t.Error("the YAML is not the document")
	}
}

// A problem's type leads to what the page says of its code.
func TestDocsPageExplainsEveryCode(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	_, page := l.want(200, req{method: "GET", path: "http://" + l.addr + "/docs", key: "none"})
	for _, code := range errors.Codes() {
		row := fmt.Sprintf(`<tr id="%s"><td><code>%s</code></td><td>%d</td><td>`, code, code, errors.HTTPStatus(code))
		if strings.Count(string(page), row) != 1 {
			t.Errorf("the page wants: %s", row)
		}
	}
	p := l.problem(404, errors.NotFound, req{method: "GET", path: "/vms/none"})
	if path, code, _ := strings.Cut(p.Type, "#"); path != "/docs" || code != string(errors.NotFound) {
		t.Errorf("type %s", p.Type)
	}
}

func TestDocsPageNeedsNothingFromElsewhere(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	resp, page := l.want(200, req{method: "GET", path: "http://" + l.addr + "/docs", key: "none"})
	policy := resp.Header.Get("Content-Security-Policy")
	if !strings.HasPrefix(policy, "default-src 'none';") || strings.Contains(policy, "unsafe") || strings.Contains(policy, "http") {
		t.Errorf("policy %q", policy)
	}
	links := regexp.MustCompile(`(?:src|href)="([^"]*)"`).FindAllStringSubmatch(string(page), -1)
	if len(links) == 0 {
		t.Fatal("the page links nothing")
	}
	for _, m := range links {
		if strings.HasPrefix(m[1], "data:") {
			continue
		}
		if !strings.HasPrefix(m[1], "/docs/") {
			t.Errorf("the page wants %s", m[1])
		}
		l.want(200, req{method: "GET", path: "http://" + l.addr + m[1], key: "none"})
	}
	if inline := regexp.MustCompile(`<script>|<style|\son\w+=|style="`).FindString(string(page)); inline != "" {
		t.Errorf("the policy forbids %q", inline)
	}
	resp, _ = l.do(req{method: "GET", path: "http://" + l.addr + "/", key: "none"})
	if resp.StatusCode != http.StatusFound || resp.Header.Get("Location") != "/docs" {
		t.Errorf("/: %d %v", resp.StatusCode, resp.Header)
	}
}
