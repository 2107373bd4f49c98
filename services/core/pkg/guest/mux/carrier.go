package mux

import (
	"io"
	"sync"
)

// carrier is the stream from one opening to its break: it says hello, makes
// and ends the link, and passes packets on.
type carrier struct {
	m  *Mux
	rw io.ReadWriteCloser

	// Of the reading goroutine alone.
	peer   uint64 // life of the other end; 0: not heard of
	link   *link
	linked bool // there was a link

	out  chan *outPacket
	say  chan struct{} // a hello is to be sent
	done chan struct{}

	mu   sync.Mutex
	self uint64 // this end's life
	told uint64 // the peer's life that our last hello named
}

// outPacket is a stuffed packet on its way out.
type outPacket struct {
	bytes []byte
	sent  chan error
}

func newCarrier(m *Mux, rw io.ReadWriteCloser) *carrier {
	return &carrier{
		m: m, rw: rw, self: newLife(),
		out: make(chan *outPacket), say: make(chan struct{}, 1), done: make(chan struct{}),
	}
}

// run serves the stream until it breaks or the mux is closed.
func (c *carrier) run() error {
	var once sync.Once
	end := func() { once.Do(func() { close(c.done); _ = c.rw.Close() }) }
	var writer sync.WaitGroup
	writer.Go(func() {
		c.write()
		end()
	})
	stop := make(chan struct{})
	var closer sync.WaitGroup
	closer.Go(func() {
		select {
		case <-c.m.ctx.Done():
			end()
		case <-stop:
		}
	})
	c.hello(0)
	err := c.read()
	c.endLink()
	close(stop)
	end()
	writer.Wait()
	closer.Wait()
	return err
}

func (c *carrier) read() error {
	var s splitter
	buf := make([]byte, 64<<10)
	for {
		n, err := c.rw.Read(buf)
		if ferr := s.feed(buf[:n], c.handle); ferr != nil {
			return ferr
		}
		if err != nil {
			return err
		}
	}
}

// write sends what is asked for, one packet after the other. A hello goes
// first. The reading goroutine never writes, or two ends that both wait to
// write would wait for ever.
func (c *carrier) write() {
	for {
		select {
		case <-c.say:
			if !c.writeHello() {
				return
			}
			continue
		default:
		}
		select {
		case <-c.say:
			if !c.writeHello() {
				return
			}
		case p := <-c.out:
			_, err := c.rw.Write(p.bytes)
			p.sent <- err
			if err != nil {
				return
			}
		case <-c.done:
			return
		}
	}
}

func (c *carrier) writeHello() bool {
	c.mu.Lock()
	p := packet{kind: hello, from: c.self, to: c.told}
	c.mu.Unlock()
	// The zero before it ends whatever an earlier life left.
	_, err := c.rw.Write(stuff([]byte{0}, p.appendTo(nil)))
	return err == nil
}

// hello asks for a hello that names the peer's life.
func (c *carrier) hello(peer uint64) {
	c.mu.Lock()
	c.told = peer
	c.mu.Unlock()
	select {
	case c.say <- struct{}{}:
	default: // one is on its way and names what is to be named when it is written
	}
}

// handle takes a packet. It is called by the reading goroutine.
func (c *carrier) handle(p packet) error {
	if p.from == c.self {
		return nil // an echo
	}
	switch p.kind {
	case hello:
		c.handleHello(p)
	case data:
		return c.handleData(p)
	}
	return nil
}

func (c *carrier) handleHello(p packet) {
	if p.from != c.peer {
		c.endLink()
		c.peer = p.from
	}
	if c.told != c.peer || p.to != c.self {
		c.hello(c.peer)
	}
	if p.to == c.self && c.link == nil {
		c.begin()
	}
}

func (c *carrier) handleData(p packet) error {
	if p.from != c.peer || p.to != c.self {
		return nil // left over from an earlier link
	}
	if c.link == nil {
		c.begin()
	}
	if p.count != c.link.received {
		// Bytes were lost: what the link carries is of no use any more.
		c.endLink()
		c.mu.Lock()
		c.self = newLife()
		c.mu.Unlock()
		c.hello(c.peer)
		return nil
	}
	c.link.received++
	// It blocks until the link has taken it, or has ended.
	_, _ = c.link.in.Write(p.data)
	return nil
}

func (c *carrier) begin() {
	l, err := newLink(c, c.self, c.peer)
	if err != nil {
		c.m.log.Error("no link", "error", err)
		return
	}
	c.link, c.linked = l, true
	c.m.setLink(l)
}

func (c *carrier) endLink() {
	if c.link != nil {
		c.m.setLink(nil)
		c.link.end()
		c.link = nil
	}
}
