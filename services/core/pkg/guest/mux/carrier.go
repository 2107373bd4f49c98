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

	out  chan *outPacket
	say  chan struct{} // a hello is to be sent
	done chan struct{}

	mu     sync.Mutex
	self   uint64 // this end's life
	peer   uint64 // life of the other end; 0: not heard of
	told   uint64 // the peer's life that our last hello named
	link   *link  // nil while there is none
	linked bool   // there was one
}

// How much is read at a time: most streams carry a little now and then, and
// there is one for each machine.
const (
	leastRead = 4 << 10
	mostRead  = 64 << 10
)

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
	c.sayHello()
	err := c.read()
	c.mu.Lock()
	c.endLink()
	c.mu.Unlock()
	close(stop)
	end()
	writer.Wait()
	closer.Wait()
	return err
}

func (c *carrier) read() error {
	var s splitter
	buf := make([]byte, leastRead)
	for {
		n, err := c.rw.Read(buf)
		if ferr := s.feed(buf[:n], c.handle); ferr != nil {
			return ferr
		}
		if err != nil {
			return err
		}
		if n == len(buf) && n < mostRead { // there is much to be read
			buf = make([]byte, 2*n)
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

// sayHello asks for a hello. One that is asked for already will name what is to
// be named when it is written.
func (c *carrier) sayHello() {
	select {
	case c.say <- struct{}{}:
	default:
	}
}

// handle takes a packet. It is called by the reading goroutine.
func (c *carrier) handle(p packet) error {
	switch p.kind {
	case hello:
		c.handleHello(p)
	case data:
		if l := c.linkFor(p); l != nil {
			if err := l.receive(p.data); err != nil {
				c.failed(l)
			}
		}
	}
	return nil
}

func (c *carrier) handleHello(p packet) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.from == c.self {
		return // an echo
	}
	if p.from != c.peer {
		c.endLink()
		c.peer = p.from
	}
	if c.told != c.peer || p.to != c.self {
		c.told = c.peer
		c.sayHello()
	}
	if p.to == c.self && c.link == nil {
		c.begin()
	}
}

// linkFor gives the link that a data packet belongs to, if it is to be taken.
func (c *carrier) linkFor(p packet) *link {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.from != c.peer || p.to != c.self {
		return nil // left over from an earlier link
	}
	if c.link == nil {
		c.begin()
	}
	l := c.link
	if l == nil {
		return nil
	}
	if p.count != l.received {
		// Bytes were lost: what the link carries is of no use any more.
		c.renew()
		return nil
	}
	l.received++
	return l
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
		c.link.end()
		c.link = nil
		c.m.setLink(nil)
	}
}

// renew begins a new life, so that the peer gives up the link as well.
func (c *carrier) renew() {
	c.endLink()
	c.self = newLife()
	c.told = c.peer
	c.sayHello()
}

// failed is called when a link ended by itself: the peer broke the protocol on it.
func (c *carrier) failed(l *link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link == l {
		c.renew()
	}
}
