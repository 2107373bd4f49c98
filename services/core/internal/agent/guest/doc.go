// Package guest serves aetherium.guest.v1, what the host alone speaks to the
// agent: executions with an acknowledged journal, and the machine as a whole.
package guest

import "connectrpc.com/connect"

// Options are the handler options of both services. The channel to the host is
// local: compressing it costs more than it saves.
func Options() []connect.HandlerOption {
	return []connect.HandlerOption{
		connect.WithReadMaxBytes(8 << 20),
		connect.WithCompression("gzip", nil, nil),
	}
}
