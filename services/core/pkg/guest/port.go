package guest

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strconv"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/guest/lane"
)

// DialPort connects to a TCP port inside the machine by way of the agent, for
// drivers that cannot reach it directly. Returns Unavailable when nothing
// listens there, GuestFault.
func (c *Client) DialPort(ctx context.Context, port uint16) (net.Conn, error) {
	if port == 0 {
		return nil, errors.New(errors.InvalidArgument, "a port is between 1 and 65535").WithField("port")
	}
	return bounded(ctx, c.o.CallTimeout, "connecting to a port", func(ctx context.Context) (net.Conn, error) {
		conn, _, err := upgrade(ctx, c.dial, "/aetherium/port/"+strconv.Itoa(int(port)), "tcp", "", "connecting to a port")
		return conn, err
	})
}

// upgrade makes a connection that speaks something else than HTTP after the
// agent has agreed, and gives the headers that it did so with. head is further headers of the request, with their line ends.
func upgrade(ctx context.Context, dial Dial, path, protocol, head, what string) (_ net.Conn, agreed http.Header, _ error) {
	conn, err := dial(ctx)
	if err != nil {
		return nil, nil, err
	}
	// A connection that is closed ends the reads and writes below.
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	r, agreed, err := askUpgrade(conn, path, protocol, head, what)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = conn.Close()
		return nil, nil, err
	}
	return &lane.ReadAhead{Conn: conn, R: r}, agreed, nil
}

func askUpgrade(conn net.Conn, path, protocol, head, what string) (*bufio.Reader, http.Header, error) {
	_, err := io.WriteString(conn, "POST "+path+" HTTP/1.1\r\n"+
		"Host: agent\r\nConnection: Upgrade\r\nUpgrade: "+protocol+"\r\n"+head+"Content-Length: 0\r\n\r\n")
	if err != nil {
		return nil, nil, err
	}
	limited := &io.LimitedReader{R: conn, N: maxHeader}
	r := bufio.NewReaderSize(limited, 4<<10)
	resp, err := http.ReadResponse(r, &http.Request{Method: http.MethodPost})
	if err != nil {
		return nil, nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		defer func() { _ = resp.Body.Close() }()
		return nil, nil, httpFault(resp, what)
	}
	limited.N = 1<<63 - 1
	return r, resp.Header, nil
}
