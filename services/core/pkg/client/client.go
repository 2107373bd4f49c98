package client

import (
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
)

// Options say where the server is and how to talk to it.
type Options struct {
	// URL is the server's, such as http://127.0.0.1:7300; the API's path is added.
	URL string
	// Key is the API key; it is sent in a header only, and never across a redirect.
	Key string
	// Project is the ID or name of the project to work in, where the key is
	// good for several; empty: the key's own.
	Project string
	// UserAgent names the program; default "aetherium-client".
	UserAgent string
	// Patience is how long a server that answered before may be away before a
	// request or stream gives up; default one minute.
	Patience time.Duration
	// Transport carries the requests; nil: one of the client's own.
	Transport http.RoundTripper
}

// Client talks to one server. It is safe for concurrent use.
type Client struct {
	base     *url.URL // with the API's path, without a slash at the end
	origin   string
	key      string
	project  string
	agent    string
	patience time.Duration
	http     *http.Client
	// reached is set once a connection to the server was made: only then is a
	// refused connection a server that comes back, and not a wrong address.
	reached atomic.Bool
}

// New makes a client. Nothing is sent yet. Returns InvalidArgument for a bad URL or key.
func New(o Options) (*Client, error) {
	u, err := url.Parse(strings.TrimSpace(o.URL))
	switch {
	case err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https"):
		return nil, errors.New(errors.InvalidArgument, "%q is not the URL of a server", o.URL).
			WithField("url").WithHint("it looks like http://127.0.0.1:7300")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		// The URL is not repeated here: it may hold a password.
		return nil, errors.New(errors.InvalidArgument, "the server's URL must not carry a user, query or fragment").
			WithField("url").WithHint("give the API key by AETHERIUM_API_KEY or --key-file")
	}
	if strings.ContainsFunc(o.Key, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, errors.New(errors.InvalidArgument, "the API key holds characters that no key has").WithField("key")
	}
	if strings.ContainsFunc(o.Project, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, errors.New(errors.InvalidArgument, "%q is not the name or ID of a project", o.Project).WithField("project")
	}
	origin := u.Scheme + "://" + u.Host
	u.Path = strings.TrimSuffix(strings.TrimSuffix(u.Path, "/"), api.BasePath) + api.BasePath
	c := &Client{base: u, origin: origin, key: o.Key, project: o.Project, agent: o.UserAgent, patience: o.Patience}
	if c.agent == "" {
		c.agent = "aetherium-client"
	}
	if c.patience <= 0 {
		c.patience = time.Minute
	}
	transport := o.Transport
	if transport == nil {
		transport = &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
			TLSHandshakeTimeout:   5 * time.Second,
			MaxIdleConnsPerHost:   16,
			IdleConnTimeout:       30 * time.Second,
			ExpectContinueTimeout: time.Second,
			ForceAttemptHTTP2:     true,
		}
	}
	c.http = &http.Client{
		Transport: transport,
		// The API never redirects; following one could carry the key elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c, nil
}

// URL is the server's, without the API's path.
func (c *Client) URL() string { return c.origin }

// Close lets idle connections go.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// endpoint makes the URL of a route from path segments, each escaped.
func (c *Client) endpoint(segments []string, query url.Values) *url.URL {
	u := *c.base
	escaped := u.EscapedPath()
	for _, s := range segments {
		u.Path += "/" + s
		escaped += "/" + escapeSegment(s)
	}
	u.RawPath = escaped
	u.RawQuery = query.Encode()
	return &u
}

// escapeSegment escapes one path segment, and dots too where they alone are
// the segment: a name from outside must not climb out of its place.
func escapeSegment(s string) string {
	if s == "." || s == ".." {
		return strings.ReplaceAll(s, ".", "%2E")
	}
	return url.PathEscape(s)
}
