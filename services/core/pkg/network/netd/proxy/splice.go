package proxy

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// splice carries bytes both ways until both sides have ended. head is what the
// machine has said already, said what the other side has.
func (f *flow) splice(head io.Reader, up *net.TCPConn, said []byte) {
	defer f.end()
	_ = f.client.SetReadDeadline(time.Time{})
	var both sync.WaitGroup
	both.Go(func() { f.carry(up, f.client, head, &f.sent) })
	f.carry(f.client, up, nil, &f.got, said...)
	both.Wait()
}

// carry copies one way and passes the end on. Between two TCP connections the
// kernel moves the bytes (splice(2)). What breaks one way breaks both.
func (f *flow) carry(to, from *net.TCPConn, head io.Reader, count *atomic.Int64, said ...byte) {
	fail := func() { _ = to.Close(); _ = from.Close() }
	if len(said) > 0 {
		n, err := to.Write(said)
		count.Add(int64(n))
		if err != nil {
			fail()
			return
		}
	}
	if head != nil {
		n, err := io.Copy(struct{ io.Writer }{to}, head)
		count.Add(n)
		if err != nil {
			fail()
			return
		}
	}
	n, err := to.ReadFrom(from)
	count.Add(n)
	if err != nil || to.CloseWrite() != nil {
		fail()
	}
}
