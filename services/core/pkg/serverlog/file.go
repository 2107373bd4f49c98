package serverlog

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

const (
	// maxScan bounds what is looked through for a page; then it ends, and says where to go on.
	maxScan = 64 << 20
	// disorder is how far lines may be from the order of their times.
	disorder = time.Minute
	// lookEvery is how often it is looked whether there are more lines: no file
	// system tells reliably.
	lookEvery = 250 * time.Millisecond
)

// Files reads what this process logs to a file (logging.File).
type Files struct {
	path          string
	keep          int
	service, host string
}

// NewFiles reads a file and the keep files that were put aside of it, whose lines
// are a service's on a host.
func NewFiles(path string, keep int, service, host string) *Files {
	return &Files{path: path, keep: keep, service: service, host: host}
}

// Kind implements Source.
func (s *Files) Kind() string { return "file" }

// filePlace is between two lines. A file keeps its number when it is put aside;
// the time is that of the line that was told, as numbers are given again.
type filePlace struct {
	File   uint64 `json:"f"`
	Offset int64  `json:"o"`
	At     int64  `json:"t"`           // nanoseconds since 1970
	Down   bool   `json:"d,omitempty"` // the line is the one behind it
}

// part is one of the files.
type part struct {
	path   string
	number uint64
	at     time.Time // of the last change
}

// parts lists the files, the newest first. One that is put aside meanwhile is not
// missed, as it moves to where it is looked for later.
func (s *Files) parts() (all []part, err error) {
	for n := range s.keep + 1 {
		path := s.path
		if n > 0 {
			path = fmt.Sprintf("%s.%d", s.path, n)
		}
		info, err := os.Lstat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return nil, unreadable(err)
		case !info.Mode().IsRegular():
			continue
		}
		number := numberOf(info)
		if !slices.ContainsFunc(all, func(p part) bool { return p.number == number }) {
			all = append(all, part{path, number, info.ModTime()})
		}
	}
	return all, nil
}

func numberOf(info fs.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Ino
	}
	return 0
}

func unreadable(err error) error {
	return errors.Wrap(err, errors.Unavailable, "the files of log.file cannot be read")
}

// open opens a file wherever it has been put meanwhile; nil: it is gone.
func (s *Files) open(p part) (*os.File, int64, error) {
	for range 3 {
		file, err := os.OpenFile(p.path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
		if err == nil {
			info, err := file.Stat()
			if err == nil && info.Mode().IsRegular() && numberOf(info) == p.number {
				return file, info.Size(), nil
			}
			_ = file.Close()
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, 0, unreadable(err)
		}
		all, err := s.parts()
		if err != nil {
			return nil, 0, err
		}
		i := slices.IndexFunc(all, func(o part) bool { return o.number == p.number })
		if i < 0 {
			return nil, 0, nil
		}
		p = all[i]
	}
	return nil, 0, nil
}

// entry reads a line; ok: it is meant.
func (s *Files) entry(f Filter, needles [][]byte, line []byte) (e Entry, ok bool) {
	for _, n := range needles {
		if !bytes.Contains(line, n) {
			return e, false
		}
	}
	e = parse(line)
	e.Service, e.Host = s.service, s.host
	return e, !e.At.IsZero() && f.takes(&e)
}

// ours reports whether any line can be meant.
func (s *Files) ours(f Filter) bool {
	return (f.Service == "" || f.Service == s.service) && (f.Host == "" || f.Host == s.host)
}

func needlesOf(f Filter) (all [][]byte) {
	for _, n := range f.needles() {
		all = append(all, []byte(n))
	}
	return all
}

// Read implements Source. A page also ends when enough was looked through.
func (s *Files) Read(ctx context.Context, f Filter, p Page) (List, error) {
	var at filePlace
	if p.Cursor != "" {
		if err := decode(p.Cursor, cursorField, &at); err != nil {
			return List{}, err
		}
		if at.Down == p.Oldest {
			return List{}, errors.New(errors.InvalidArgument, "the cursor is of the other order").WithField(cursorField)
		}
	}
	if !s.ours(f) {
		return List{}, nil
	}
	all, err := s.parts()
	if err != nil {
		return List{}, err
	}
	if p.Oldest {
		slices.Reverse(all)
	}
	after := int64(0) // of a place that is gone: lines of a later time
	if p.Cursor != "" {
		i, err := s.find(all, at)
		switch {
		case err != nil:
			return List{}, err
		case i >= 0:
			all = all[i:]
		case at.Down:
			return List{}, nil // with all that is older
		default:
			at.Offset, after = 0, at.At
		}
	}
	page := filePage{files: s, filter: f, needles: needlesOf(f), limit: p.Limit, size: pageSize(p), after: after, down: !p.Oldest}
	for i, one := range all {
		if !p.Oldest || !one.at.Before(f.Since) {
			from := int64(-1)
			if i == 0 && p.Cursor != "" {
				from = at.Offset
			}
			if err := page.read(ctx, one, from); err != nil {
				return List{}, err
			}
		}
		if page.done {
			break
		}
	}
	return page.list, nil
}

// find gives the file of a place; -1: it is gone.
func (s *Files) find(all []part, at filePlace) (int, error) {
	i := slices.IndexFunc(all, func(p part) bool { return p.number == at.File })
	if i < 0 || at.Offset < 0 {
		return -1, nil
	}
	file, size, err := s.open(all[i])
	if file == nil || err != nil {
		return -1, err
	}
	defer func() { _ = file.Close() }()
	if at.Offset > size {
		return -1, nil
	}
	same := false
	check := func(start, end int64, line []byte) bool {
		same = (at.Down && start == at.Offset || !at.Down && end == at.Offset) && timeOf(line).UnixNano() == at.At
		return false
	}
	if r := newReader(file); at.Down {
		err = r.after(at.Offset, check)
	} else {
		err = r.before(at.Offset, check)
	}
	if err != nil {
		return -1, unreadable(err)
	}
	if !same {
		return -1, nil
	}
	return i, nil
}

// filePage is a page while it is read.
type filePage struct {
	files   *Files
	filter  Filter
	needles [][]byte
	limit   int
	size    int
	after   int64
	down    bool

	list    List
	bytes   int
	scanned int64
	done    bool
}

// read takes lines of a file, from an offset on or all.
func (p *filePage) read(ctx context.Context, one part, from int64) error {
	file, size, err := p.files.open(one)
	if file == nil || err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	r := newReader(file)
	take := func(start, end int64, line []byte) bool { return p.take(ctx, one.number, start, end, line) }
	switch {
	case p.down && from >= 0:
		err = r.before(min(from, size), take)
	case p.down:
		err = r.before(size, take)
	default:
		err = r.after(max(from, 0), take)
	}
	if err != nil {
		return unreadable(err)
	}
	return ctx.Err()
}

// take reports whether the page has room for more.
func (p *filePage) take(ctx context.Context, number uint64, start, end int64, line []byte) bool {
	p.scanned += end - start
	e, ok := p.files.entry(p.filter, p.needles, line)
	if ok && e.At.UnixNano() > p.after {
		e.ID = encode(filePlace{File: number, Offset: end, At: e.At.UnixNano()})
		e.Behind = p.behind(number, start, end, e.At)
		p.list.Entries = append(p.list.Entries, e)
		p.bytes += len(line)
	}
	when := timeOf(line)
	if !when.IsZero() && (p.down && when.Before(p.filter.Since.Add(-disorder)) ||
		!p.down && !p.filter.Until.IsZero() && when.After(p.filter.Until.Add(disorder))) {
		p.done = true // and there are no more
		return false
	}
	if len(p.list.Entries) < p.limit && p.bytes < p.size && p.scanned < maxScan && ctx.Err() == nil {
		return true
	}
	p.done = true
	p.list.Next = p.behind(number, start, end, when)
	return false
}

// behind is the cursor that goes on behind a line.
func (p *filePage) behind(number uint64, start, end int64, at time.Time) string {
	place := filePlace{File: number, Offset: end, At: at.UnixNano()}
	if p.down {
		place.Offset, place.Down = start, true
	}
	return encode(place)
}

// pageSize is how many bytes of lines a page has.
func pageSize(p Page) int {
	if p.Bytes > 0 {
		return min(p.Bytes, maxPage)
	}
	return maxPage
}
