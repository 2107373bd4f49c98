package guest

import (
	"context"
	"net"
	"net/http"

	"connectrpc.com/connect"

	"github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1/guestv1connect"
	"github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/filesystem/filesystempbconnect"
)

// web is what an agent is asked by HTTP: files, ports, and all else where it is
// older than calls by frames. Most machines are never asked so, and a host has
// thousands of them, so it is made when it is needed.
type web struct {
	rpc  *http.Client // HTTP/2: calls and executions, many on one connection
	bulk *http.Client // HTTP/1.1: one connection per transfer, so that none holds up another

	machine    guestv1connect.MachineServiceClient
	executions guestv1connect.ExecutionServiceClient
	listing    guestv1connect.ExecutionServiceClient // with room for long answers
	files      filesystempbconnect.FilesystemClient
}

// base is a name that is never resolved: dial alone says where bytes go.
const base = "http://agent"

func newWeb(dial Dial) *web {
	w := &web{rpc: newRPC(dial), bulk: newBulk(polite(roomy(dial)))}
	small, long := connect.WithReadMaxBytes(maxMessage), connect.WithReadMaxBytes(maxListing)
	// The agent is near: compression costs more than it saves, and what is not
	// decompressed cannot explode.
	plain := connect.WithAcceptCompression("gzip", nil, nil)
	w.machine = guestv1connect.NewMachineServiceClient(w.rpc, base, small, plain)
	w.executions = guestv1connect.NewExecutionServiceClient(w.rpc, base, small, plain)
	w.listing = guestv1connect.NewExecutionServiceClient(w.rpc, base, long, plain)
	w.files = filesystempbconnect.NewFilesystemClient(w.rpc, base, long, plain)
	return w
}

func newRPC(dial Dial) *http.Client {
	h2c := new(http.Protocols)
	h2c.SetUnencryptedHTTP2(true)
	t := &http.Transport{
		Protocols:              h2c,
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxHeader,
		HTTP2: &http.HTTP2Config{
			MaxReadFrameSize:              maxFrame,
			MaxReceiveBufferPerStream:     maxStreamBuf,
			MaxReceiveBufferPerConnection: maxConnBuf,
		},
	}
	return &http.Client{Transport: t, CheckRedirect: noRedirect}
}

func newBulk(dial Dial) *http.Client {
	h1 := new(http.Protocols)
	h1.SetHTTP1(true)
	t := &http.Transport{
		Protocols:              h1,
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxHeader,
		DisableKeepAlives:      true, // see polite; a new connection costs 50 µs
	}
	return &http.Client{Transport: t, CheckRedirect: noRedirect}
}

// noRedirect keeps the agent from sending us elsewhere.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
