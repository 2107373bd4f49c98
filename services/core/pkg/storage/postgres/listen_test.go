package postgres_test

import (
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

// path is a way to a database that can come to lose what goes over it, as a
// firewall does that has forgotten a connection. New connections are as before.
type path struct {
	lost atomic.Pointer[chan struct{}] // closed: what goes over earlier connections is lost
}

func (p *path) lose() {
	next := make(chan struct{})
	close(*p.lost.Swap(&next))
}

// through gives the URL of a database behind a path of its own.
func through(t *testing.T, database string) (*path, string) {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	const socket = ".s.PGSQL.5432"
	query := u.Query()
	server := filepath.Join(query.Get("host"), socket)
	dir, err := os.MkdirTemp("", "path") // the name of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	ln, err := net.Listen("unix", filepath.Join(dir, socket))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	p := &path{}
	first := make(chan struct{})
	p.lost.Store(&first)
	go func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			lost := *p.lost.Load()
			go carry(client, server, lost)
		}
	}()
	query.Set("host", dir)
	u.RawQuery = query.Encode()
	return p, u.String()
}

func carry(client net.Conn, server string, lost chan struct{}) {
	defer func() { _ = client.Close() }()
	to, err := net.Dial("unix", server)
	if err != nil {
		return
	}
	defer func() { _ = to.Close() }()
	ended := make(chan struct{}, 2)
	copyUntil := func(dst io.Writer, src io.Reader) {
		buf := make([]byte, 32<<10)
		for {
			n, err := src.Read(buf)
			select {
			case <-lost: // read and thrown away; an end is not told either
				if err != nil {
					return
				}
				continue
			default:
			}
			if n > 0 {
				if _, err := dst.Write(buf[:n]); err != nil {
					break
				}
			}
			if err != nil {
				break
			}
		}
		ended <- struct{}{}
	}
	go copyUntil(to, client)
	go copyUntil(client, to)
	<-ended
}

// A connection that is lost without an end keeps nobody waiting for what is told.
func TestALostConnectionIsNoticed(t *testing.T) {
	t.Parallel()
	database := server.Database(t)
	writer := open(t, database)
	p, far := through(t, database)
	o := quiet()
	o.Alive = 100 * time.Millisecond
	reader := openWith(t, far, o)
	tell := func(subject string) {
		t.Helper()
		if err := writer.Update(t.Context(), func(tx storage.Tx) error {
			return tx.Outbox().Append(t.Context(), &domain.Event{ProjectID: domain.NewID(), Type: "t", Subject: domain.ID(subject), At: time.Now()})
		}); err != nil {
			t.Fatal(err)
		}
	}
	hears := func(changed <-chan struct{}, what string) {
		t.Helper()
		select {
		case <-changed:
		case <-time.After(10 * time.Second):
			t.Fatalf("%s is not heard of", what)
		}
	}
	time.Sleep(5 * o.Alive) // it is silent, and is tried, and is as good as before
	changed := reader.Changed()
	tell("one")
	hears(changed, "a change after silence")
	changed = reader.Changed()
	p.lose()
	tell("other")
	hears(changed, "a change behind a lost connection")
	changed = reader.Changed()
	tell("third")
	hears(changed, "a change after it")
}
