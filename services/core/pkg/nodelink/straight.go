package nodelink

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	// maxStraight is how many calls at once have a connection of their own.
	maxStraight = 16
	// idleStraight is how long such a connection waits for the next call.
	idleStraight = 90 * time.Second
)

// newPlain makes a client of HTTP/1.1 with a configuration for TLS.
func newPlain(config *tls.Config) *http.Client {
	config = config.Clone()
	config.NextProtos = []string{"http/1.1"}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Client{Transport: &http.Transport{
		DialContext: (&net.Dialer{Timeout: dialLimit}).DialContext, TLSHandshakeTimeout: dialLimit,
		TLSClientConfig: config, Protocols: protocols, DisableCompression: true,
		MaxIdleConnsPerHost: maxStraight, IdleConnTimeout: idleStraight,
	}}
}

// straight is open over a connection of HTTP/1.1 that the call has to itself, while
// there are few such. Over HTTP/2 a call passes from goroutine to goroutine at both
// ends and is sent in two pieces, which is a good part of what a short command takes.
func (c *Client) straight(ctx context.Context, name string, in, out any) (*reply, error) {
	if c.busy.Add(1) > maxStraight {
		c.busy.Add(-1)
		return c.open(ctx, name, in, nil, out)
	}
	life, cancel := context.WithCancel(ctx)
	attended := c.attend(life, cancel)
	done := sync.OnceFunc(func() {
		attended()
		cancel()
		c.busy.Add(-1)
	})
	r, err := c.openBy(life, c.plain, name, in, nil, out)
	if err != nil {
		if life.Err() != nil {
			err = unreachable(ctx, err)
		}
		done()
		return nil, err
	}
	end := r.cancel
	r.ctx, r.cancel = ctx, func() { end(); done() }
	return r, nil
}

// attend ends a call that lasts when its node gives no sign of life any more.
// HTTP/2 asks for one by itself, HTTP/1.1 knows none.
func (c *Client) attend(ctx context.Context, end context.CancelFunc) (stop func()) {
	var mu sync.Mutex
	mu.Lock()
	defer mu.Unlock()
	var next *time.Timer
	stopped := false
	next = time.AfterFunc(c.patience, func() {
		err := c.alive(ctx)
		mu.Lock()
		defer mu.Unlock()
		switch {
		case stopped:
		case err != nil:
			end()
		default:
			next.Reset(c.patience)
		}
	})
	return func() {
		mu.Lock()
		defer mu.Unlock()
		stopped = true
		next.Stop()
	}
}

// alive asks a node for a sign of life: any answer is one.
func (c *Client) alive(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pingFor)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, c.base.String(), http.NoBody)
	if err != nil {
		return err
	}
	response, err := c.http.Do(req)
	if err != nil {
		return err
	}
	return response.Body.Close()
}
