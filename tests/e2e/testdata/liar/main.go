// Command liar takes the place of the guest agent in tests. Which lie it tells
// is its VM's hostname.
package main

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	lie, _ := os.Hostname()
	if lie == "exit" {
		os.Exit(3)
	}
	go func() { // the first process of a VM ends when it is told to
		ends := make(chan os.Signal, 1)
		signal.Notify(ends, syscall.SIGTERM)
		<-ends
		os.Exit(0)
	}()
	l, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		os.Exit(4)
	}
	switch lie {
	case "endless-body", "giant-length", "wrong-answer":
		protocols := new(http.Protocols)
		protocols.SetHTTP1(true)
		protocols.SetUnencryptedHTTP2(true)
		srv := &http.Server{Handler: http.HandlerFunc(answer(lie)), Protocols: protocols}
		_ = srv.Serve(l)
	}
	for {
		c, err := l.Accept()
		if err != nil {
			os.Exit(5)
		}
		go babble(c, lie)
	}
}

// babble speaks no HTTP.
func babble(c net.Conn, lie string) {
	defer c.Close()
	go func() { _, _ = io.Copy(io.Discard, c) }()
	junk := bytes.Repeat([]byte{0xff, 0, 'x', '\n'}, 16<<10)
	switch lie {
	case "hangup":
		return
	case "endless-header":
		_, _ = c.Write([]byte("HTTP/1.1 200 OK\r\nX-Endless: "))
		junk = bytes.Repeat([]byte("a"), 64<<10)
	}
	for {
		if _, err := c.Write(junk); err != nil {
			return
		}
	}
}

// answer speaks HTTP, and says what cannot be.
func answer(lie string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) {
		kind := r.Header.Get("Content-Type")
		w.Header().Set("Content-Type", kind)
		switch lie {
		case "wrong-answer":
			_, _ = w.Write([]byte(`{"protocol": 1e999, "boot_id": ["\u0000"]}`))
		case "giant-length":
			frame := append([]byte{0}, binary.BigEndian.AppendUint32(nil, 1<<32-1)...)
			_, _ = w.Write(append(frame, bytes.Repeat([]byte{1}, 1<<20)...))
		case "endless-body":
			for junk := bytes.Repeat([]byte(" "), 64<<10); ; {
				if _, err := w.Write(junk); err != nil {
					return
				}
			}
		}
	}
}
