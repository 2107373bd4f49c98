package egresslog

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"regexp"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// The bounds of a machine's log.
const (
	DefaultBytes = 4 << 20
	minBytes     = 64 << 10

	perSecond = 200 // entries that are written
	burst     = 2000
	maxSame   = 4096 // different entries within a second that are told apart
	collapse  = time.Second
	tail      = 64 << 10 // of a file, to find the last entry's number
)

// idForm keeps IDs from being paths.
var idForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$`)

func current(id string) string { return id + ".jsonl" }
func older(id string) string   { return id + ".1.jsonl" }

// Dir is a directory of logs that is written to.
type Dir struct {
	root  *os.Root
	bytes int64

	mu   sync.Mutex
	logs map[string]*Log
	stop chan struct{}
	done chan struct{}
}

// Open opens a directory; each machine's log may have so many bytes (0:
// DefaultBytes). Its parents need not be reachable later.
func Open(dir string, bytes int64) (*Dir, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, errors.Wrap(err, errors.Unavailable, "cannot open the directory of egress logs")
	}
	if bytes == 0 {
		bytes = DefaultBytes
	}
	d := &Dir{root: root, bytes: max(bytes, minBytes), logs: map[string]*Log{}, stop: make(chan struct{}), done: make(chan struct{})}
	go d.flush()
	return d, nil
}

// flush writes what was counted, each second.
func (d *Dir) flush() {
	defer close(d.done)
	tick := time.NewTicker(collapse)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-d.stop:
			return
		}
		for _, l := range d.all() {
			l.tick()
		}
	}
}

func (d *Dir) all() []*Log {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]*Log, 0, len(d.logs))
	for _, l := range d.logs {
		out = append(out, l)
	}
	return out
}

// Close writes what was counted and lets go.
func (d *Dir) Close() error {
	close(d.stop)
	<-d.done
	var err error
	for _, l := range d.all() {
		err = errors.Join(err, l.close())
	}
	return errors.Join(err, d.root.Close())
}

// Log gives a machine's log. Returns InvalidArgument for what is no ID.
func (d *Dir) Log(id string) (*Log, error) {
	if !idForm.MatchString(id) {
		return nil, errors.New(errors.InvalidArgument, "this is not a machine ID")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.logs[id]
	if l == nil {
		l = &Log{dir: d, id: id, limit: rate.NewLimiter(perSecond, burst), same: map[domain.EgressEntry]*int{}}
		d.logs[id] = l
	}
	return l, nil
}

// Keep closes all logs but those that are wanted; the files stay.
func (d *Dir) Keep(wanted func(id string) bool) {
	d.mu.Lock()
	var gone []*Log
	for id, l := range d.logs {
		if !wanted(id) {
			gone = append(gone, l)
			delete(d.logs, id)
		}
	}
	d.mu.Unlock()
	for _, l := range gone {
		_ = l.close()
	}
}

// Log is one machine's. It is safe for concurrent use.
type Log struct {
	dir   *Dir
	id    string
	limit *rate.Limiter

	mu     sync.Mutex
	file   *os.File
	size   int64
	seq    int64
	closed bool
	same   map[domain.EgressEntry]*int // what was written in this second, and how often it came again
	missed int                         // over the rate
}

// Add notes an entry; its number and time are set. What cannot be written is
// counted as missing, and told when writing works again.
func (l *Log) Add(e domain.EgressEntry) {
	e.Seq, e.At = 0, 0
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.Verdict != domain.EgressEnd {
		if n := l.same[e]; n != nil {
			*n++
			return
		}
		if len(l.same) < maxSame {
			l.same[e] = new(int)
		}
	}
	if !l.limit.Allow() {
		l.missed++
		return
	}
	l.write(e)
}

// tick begins another second.
func (l *Log) tick() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.settle()
}

func (l *Log) settle() {
	for e, n := range l.same {
		if *n == 0 {
			continue
		}
		if e.Count = *n; l.limit.Allow() {
			l.write(e)
		} else {
			l.missed += *n
		}
	}
	clear(l.same)
	if n := l.missed; n > 0 {
		l.missed = 0
		l.write(domain.EgressEntry{Verdict: domain.EgressGap, Via: "log", Count: n})
	}
}

// write writes a line; mu is held.
func (l *Log) write(e domain.EgressEntry) {
	if err := l.ready(); err != nil {
		l.missed++
		return
	}
	e.Seq, e.At = l.seq+1, time.Now().UnixMicro()
	line, err := json.Marshal(e)
	if err != nil {
		l.missed++
		return
	}
	n, err := l.file.Write(append(line, '\n'))
	l.size += int64(n)
	if err != nil {
		l.missed++
		if n > 0 { // readers skip what is no entry
			_, _ = l.file.Write([]byte{'\n'})
		}
		return
	}
	l.seq++
}

// ready opens the file, or turns to the next one when it is full.
func (l *Log) ready() error {
	if l.closed {
		return os.ErrClosed
	}
	if l.file != nil && l.size < l.dir.bytes/2 {
		return nil
	}
	root := l.dir.root
	torn := false // the file ends inside a line, which a crash or a full disk cut short
	if l.file != nil {
		_ = l.file.Close()
		l.file = nil
		if err := root.Rename(current(l.id), older(l.id)); err != nil {
			return err
		}
	} else {
		for _, name := range []string{older(l.id), current(l.id)} {
			var last int64
			var err error
			if last, torn, err = lastSeq(root, name); err == nil {
				l.seq = max(l.seq, last)
			}
		}
	}
	f, err := root.OpenFile(current(l.id), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return err
	}
	l.file, l.size = f, st.Size()
	if torn { // the next entry gets a line of its own; readers skip what is no entry
		n, _ := f.Write([]byte{'\n'})
		l.size += int64(n)
	}
	return nil
}

// lastSeq finds the number of the last entry in a file, and whether the file
// ends inside a line.
func lastSeq(root *os.Root, name string) (last int64, torn bool, err error) {
	f, err := root.Open(name)
	if err != nil {
		return 0, false, err
	}
	defer func() { _ = f.Close() }()
	st, err := f.Stat()
	if err != nil {
		return 0, false, err
	}
	if _, err := f.Seek(max(0, st.Size()-tail), io.SeekStart); err != nil {
		return 0, false, err
	}
	raw, err := io.ReadAll(io.LimitReader(f, tail))
	for line := range bytes.Lines(raw) {
		var e domain.EgressEntry
		if json.Unmarshal(line, &e) == nil {
			last = max(last, e.Seq)
		}
	}
	return last, len(raw) > 0 && raw[len(raw)-1] != '\n', err
}

func (l *Log) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.settle()
	l.closed = true
	if l.file == nil {
		return nil
	}
	return l.file.Close()
}
