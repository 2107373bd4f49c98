// Package events is a typed bus within one process. An event's Go type is its
// topic. Publishing never waits: a subscriber whose buffer is full is cut off
// and told so, because an event that silently went missing is worse than an
// end that can be seen. Events are hints; a subscriber that was cut off reads
// the facts anew and subscribes again, and required work goes through a queue.
package events

import (
	"reflect"
	"sync"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Event is what can be published. EventType is its stable name, for logs and
// for carrying it to other processes.
type Event interface {
	EventType() string
}

// MaxBuffer bounds a subscription's buffer.
const MaxBuffer = 1 << 16

// Why a subscription has ended.
var (
	// ErrSlow: the subscriber did not keep up and events were lost.
	ErrSlow = errors.New(errors.Unavailable, "the subscriber did not keep up with the events").WithHint("read the state again and subscribe anew")
	// ErrClosed: the subscription or the bus was closed.
	ErrClosed = errors.New(errors.Canceled, "the subscription was closed")
)

// Bus connects publishers and subscribers. It is safe for concurrent use.
type Bus struct {
	mu     sync.RWMutex
	topics map[reflect.Type]closer // the value for E is a *topic[E]
	closed bool
}

type closer interface{ close() }

// NewBus makes a bus.
func NewBus() *Bus { return &Bus{topics: make(map[reflect.Type]closer)} }

// Close ends all subscriptions; events published afterwards go nowhere.
// Closing twice is fine.
func (b *Bus) Close() {
	b.mu.Lock()
	topics := b.topics
	b.topics, b.closed = nil, true
	b.mu.Unlock()
	for _, t := range topics {
		t.close()
	}
}

// Publish gives an event to everybody who subscribed to its type E. Each
// subscriber sees the events of one publisher in their order. It returns how
// many took it.
func Publish[E Event](b *Bus, e E) int {
	b.mu.RLock()
	t, ok := b.topics[reflect.TypeFor[E]()]
	b.mu.RUnlock()
	if !ok {
		return 0
	}
	return t.(*topic[E]).publish(e)
}

// Subscribe asks for the events of type E published from now on, of which up
// to buffer (1..[MaxBuffer]) wait to be taken. Close the subscription after use.
func Subscribe[E Event](b *Bus, buffer int) *Subscription[E] {
	s := &Subscription[E]{ch: make(chan E, min(max(buffer, 1), MaxBuffer))}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		s.err = ErrClosed
		close(s.ch)
		return s
	}
	key := reflect.TypeFor[E]()
	t, ok := b.topics[key].(*topic[E])
	if !ok {
		t = &topic[E]{subs: make(map[*Subscription[E]]struct{})}
		b.topics[key] = t
	}
	s.topic = t
	t.mu.Lock()
	t.subs[s] = struct{}{}
	t.mu.Unlock()
	return s
}

// topic is everybody who subscribed to one type.
type topic[E Event] struct {
	mu   sync.Mutex // also orders sends and closes on the subscriptions' channels
	subs map[*Subscription[E]]struct{}
}

func (t *topic[E]) publish(e E) (taken int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for s := range t.subs {
		select {
		case s.ch <- e:
			taken++
		default:
			t.end(s, ErrSlow)
		}
	}
	return taken
}

// end needs t.mu.
func (t *topic[E]) end(s *Subscription[E], why error) {
	if _, ok := t.subs[s]; !ok {
		return
	}
	delete(t.subs, s)
	s.err = why
	close(s.ch)
}

func (t *topic[E]) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for s := range t.subs {
		t.end(s, ErrClosed)
	}
}

// Subscription is a subscriber's end.
type Subscription[E Event] struct {
	ch    chan E
	topic *topic[E] // nil: it never began
	err   error     // written before ch is closed
}

// C yields events. It is closed when the subscription ends; what was buffered
// by then can still be taken.
func (s *Subscription[E]) C() <-chan E { return s.ch }

// Err tells why C was closed: [ErrSlow] or [ErrClosed]. It is nil while the
// subscription goes on.
func (s *Subscription[E]) Err() error {
	if s.topic == nil {
		return s.err
	}
	s.topic.mu.Lock()
	defer s.topic.mu.Unlock()
	return s.err
}

// Close ends the subscription. Closing twice is fine.
func (s *Subscription[E]) Close() {
	if s.topic == nil {
		return
	}
	s.topic.mu.Lock()
	defer s.topic.mu.Unlock()
	s.topic.end(s, ErrClosed)
}
