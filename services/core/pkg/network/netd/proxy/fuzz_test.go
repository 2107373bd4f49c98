package proxy

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// Whatever a machine says first, it is looked at without harm, and no byte of
// it is lost or invented for who comes after.
func FuzzFirstBytes(f *testing.F) {
	ours, theirs := net.Pipe()
	go func() { _ = tls.Client(theirs, &tls.Config{ServerName: "a.test"}).Handshake() }()
	buf := make([]byte, 16<<10)
	_ = ours.SetDeadline(time.Now().Add(10 * time.Second))
	n, err := ours.Read(buf)
	if err != nil {
		f.Fatal(err)
	}
	_ = ours.Close()
	f.Add(buf[:n])
	f.Add([]byte("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"))
	f.Add([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
	f.Add([]byte{22, 3, 1, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		br := bufio.NewReaderSize(bytes.NewReader(b), 4096)
		isHTTP(br)
		if all, err := io.ReadAll(br); err != nil || !bytes.Equal(all, b) {
			t.Fatalf("%q became %q, %v", b, all, err)
		}
		br = bufio.NewReaderSize(bytes.NewReader(b), 4096)
		hello, raw, err := readHello(br)
		rest, _ := io.ReadAll(br)
		if err == nil && !bytes.Equal(append(bytes.Clone(raw), rest...), b) {
			t.Fatalf("%q became %q and %q", b, raw, rest)
		}
		if name := hostName(hello.ServerName); strings.HasSuffix(name, ".") || name != strings.ToLower(name) {
			t.Errorf("%q", name)
		}
	})
}

// A secret's value is where its placeholder was, and nowhere else.
func FuzzReveal(f *testing.F) {
	f.Add("Bearer aetherium-secret-1", "user:aetherium-secret-1")
	f.Add("Basic dXNlcjphZXRoZXJpdW0tc2VjcmV0LTE=", "")
	f.Add("basic !!!", "x")
	f.Fuzz(func(t *testing.T, authorization, other string) {
		h := http.Header{"Authorization": {authorization}, "X": {other}}
		reveal(h, []domain.BoundSecret{{Placeholder: "aetherium-secret-1", Value: "VALUE"}, {Placeholder: "", Value: "EMPTY"}})
		if want := strings.ReplaceAll(other, "aetherium-secret-1", "VALUE"); h.Get("X") != want {
			t.Errorf("%q became %q", other, h.Get("X"))
		}
	})
}

func TestWhatIsHTTP(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"GET / HTTP/1.1": true, "POST /": true, "QUERY /": true, "GE": false, "GETX /": false, "get /": false, "PRI * HTTP/2.0": false,
		"SSH-2.0-x": false, "": false, "PROPFIND /": true, "\x16\x03": false,
	} {
		if got := isHTTP(bufio.NewReader(strings.NewReader(text))); got != want {
			t.Errorf("%q: %t", text, got)
		}
	}
	for host, want := range map[string]string{
		"A.Test.": "a.test", "10.0.0.1": "", "10.0.0.1.": "", "[::1]": "", "::1": "", "": "", strings.Repeat("a", 254): "",
		// What looks like another name to whoever resolves it, or to a terminal, is none.
		"a.test..": "", ".a.test": "", "a..test": "", `a\.test`: "", "\u212a.test": "", "a.test:80:80": "", "a\x1b[2J.test": "", "_x-y.test": "_x-y.test", strings.Repeat("a", 64) + ".test": "",
	} {
		if got := hostName(host); got != want {
			t.Errorf("%q: %q", host, got)
		}
	}
}
