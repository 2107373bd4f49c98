package main

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
)

// replay answers requests as a server answered the same ones before: at once,
// and whatever they carry. What it has no answer to is passed on to the server,
// until it is closed.
type replay struct {
	via *httputil.ReverseProxy

	mu      sync.Mutex
	closed  bool
	answers map[string]answer // by method and path
}

// answer is all of one.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func newReplay(target string) (*replay, error) {
	u, err := url.Parse(target)
	if err != nil {
		return nil, err
	}
	p := &replay{answers: map[string]answer{}}
	p.via = &httputil.ReverseProxy{
		Rewrite:        func(r *httputil.ProxyRequest) { r.SetURL(u) },
		ModifyResponse: p.keep,
	}
	return p, nil
}

func called(r *http.Request) string { return r.Method + " " + r.URL.Path }

// keep remembers an answer.
func (p *replay) keep(resp *http.Response) error {
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if err := resp.Body.Close(); err != nil {
		return err
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	header := resp.Header.Clone()
	header.Del("Date") // each answer has its own
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answers[called(resp.Request)] = answer{resp.StatusCode, header, body}
	return nil
}

// close ends the passing on.
func (p *replay) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
}

func (p *replay) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	a, known := p.answers[called(r)]
	closed := p.closed
	p.mu.Unlock()
	switch {
	case known:
		_, _ = io.Copy(io.Discard, r.Body) // as who answers it has read it
		for k, v := range a.header {
			w.Header()[k] = v
		}
		w.WriteHeader(a.status)
		_, _ = w.Write(a.body)
	case closed:
		http.Error(w, "nothing was recorded for "+called(r), http.StatusNotImplemented)
	default:
		p.via.ServeHTTP(w, r)
	}
}
