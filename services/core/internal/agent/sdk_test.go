package agent_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"io"
	"net/http"
	"testing"
)

// sdkStream is a Connect stream as SDKs read it: JSON in five-byte frames.
type sdkStream struct {
	t      *testing.T
	res    *http.Response
	cancel context.CancelFunc
}

func frame(message string) []byte {
	b := make([]byte, 5, 5+len(message))
	binary.BigEndian.PutUint32(b[1:], uint32(len(message)))
	return append(b, message...)
}

// stream opens a server stream by raw HTTP/1.1.
func (r *rig) stream(method, body string, headers ...string) *sdkStream {
	r.t.Helper()
	t := r.t.(*testing.T)
	ctx, cancel := context.WithCancel(r.ctx)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.sdk+method, bytes.NewReader(frame(body)))
	must(t, err)
	req.Header.Set("Content-Type", "application/connect+json")
	req.Header.Set("Connect-Protocol-Version", "1")
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	must(t, err)
	t.Cleanup(func() { _ = res.Body.Close() })
	return &sdkStream{t: t, res: res, cancel: cancel}
}

func (r *rig) startSDK(body string, headers ...string) *sdkStream {
	r.t.Helper()
	return r.stream("/process.Process/Start", body, headers...)
}

// next reads one frame; last tells the end frame.
func (s *sdkStream) next() (message map[string]any, last bool) {
	s.t.Helper()
	var head [5]byte
	_, err := io.ReadFull(s.res.Body, head[:])
	must(s.t, err)
	body := make([]byte, binary.BigEndian.Uint32(head[1:]))
	_, err = io.ReadFull(s.res.Body, body)
	must(s.t, err)
	must(s.t, json.Unmarshal(body, &message))
	return message, head[0]&2 != 0
}

// event reads the next event of a process and what kind it is.
func (s *sdkStream) event() (kind string, value map[string]any) {
	s.t.Helper()
	message, last := s.next()
	if last {
		return "last", message
	}
	event, _ := message["event"].(map[string]any)
	for kind, value := range event {
		fields, _ := value.(map[string]any)
		return kind, fields
	}
	s.t.Fatalf("message %v", message)
	return "", nil
}

// sdkOutput is what a process gave.
type sdkOutput struct {
	pid            float64
	stdout, stderr string
	pty            string
	end            map[string]any
	err            map[string]any // of the end frame
	keepalives     int
}

func (s *sdkStream) readAll() *sdkOutput {
	s.t.Helper()
	o := &sdkOutput{}
	for {
		kind, value := s.event()
		o.add(s.t, kind, value)
		if kind == "last" {
			return o
		}
	}
}

func (o *sdkOutput) add(t *testing.T, kind string, value map[string]any) {
	t.Helper()
	switch kind {
	case "start":
		o.pid, _ = value["pid"].(float64)
	case "data":
		o.stdout += decode(t, value["stdout"])
		o.stderr += decode(t, value["stderr"])
		o.pty += decode(t, value["pty"])
	case "end":
		o.end = value
	case "keepalive":
		o.keepalives++
	case "last":
		o.err, _ = value["error"].(map[string]any)
	}
}

func decode(t *testing.T, value any) string {
	t.Helper()
	text, _ := value.(string)
	b, err := base64.StdEncoding.DecodeString(text)
	must(t, err)
	return string(b)
}

func basic(user string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"))
}
