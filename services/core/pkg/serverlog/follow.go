package serverlog

import (
	"context"
	"os"
	"slices"
	"time"
)

// Check implements Source.
func (s *Files) Check(after string) error {
	if after == "" {
		return nil
	}
	return decode(after, resumeField, new(filePlace))
}

// Follow implements Source. Of lines that were put aside too far to be there still
// nothing is told.
func (s *Files) Follow(ctx context.Context, f Filter, after string, to Listener) error {
	var at filePlace
	if after != "" {
		if err := decode(after, resumeField, &at); err != nil {
			return err
		}
	}
	t := &fileTail{files: s, filter: f, needles: needlesOf(f), tell: to.Line}
	defer t.close()
	if err := t.begin(at, after != ""); err != nil {
		return err
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		for again := s.ours(f); again; {
			var err error
			if again, err = t.step(ctx); err != nil {
				return err
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// fileTail is how far files were followed.
type fileTail struct {
	files   *Files
	filter  Filter
	needles [][]byte
	tell    func(Entry) error

	file   *os.File // nil: there was none yet, or the place in it is gone
	number uint64
	offset int64
	newest time.Time // of the lines that were read
	last   time.Time // only later ones are told, as the place is gone
}

func (t *fileTail) close() {
	if t.file != nil {
		_ = t.file.Close()
		t.file = nil
	}
}

// begin finds where to begin: at a place, at the filter's time, or at the end.
func (t *fileTail) begin(at filePlace, placed bool) error {
	all, err := t.files.parts()
	if err != nil {
		return err
	}
	switch {
	case placed:
		i, err := t.files.find(all, at)
		if err != nil {
			return err
		}
		if i < 0 {
			t.last = time.Unix(0, at.At)
			return nil // the oldest that there is
		}
		return t.open(all[i], at.Offset)
	case !t.filter.Since.IsZero():
		return nil // the oldest that there is
	case len(all) == 0 || all[0].path != t.files.path:
		t.last = time.Now()
		return nil
	}
	if err := t.open(all[0], 0); err != nil || t.file == nil {
		return err
	}
	info, err := t.file.Stat()
	if err != nil {
		return unreadable(err)
	}
	err = newReader(t.file).before(info.Size(), func(_, end int64, _ []byte) bool {
		t.offset = end // what comes then is whole, or will be
		return false
	})
	if err != nil {
		return unreadable(err)
	}
	return nil
}

func (t *fileTail) open(p part, offset int64) error {
	file, _, err := t.files.open(p)
	if file == nil || err != nil {
		return err
	}
	t.close()
	t.file, t.number, t.offset = file, p.number, offset
	return nil
}

// step tells what there is in a file, and goes over to the next; again: to one
// that may have more.
func (t *fileTail) step(ctx context.Context) (again bool, err error) {
	// Looked up before reading: of a file that was put aside by then all is read.
	info, err := os.Lstat(t.files.path)
	if t.file != nil && err == nil && numberOf(info) == t.number {
		return false, t.read(ctx)
	}
	all, err := t.files.parts()
	if err != nil {
		return false, err
	}
	if len(all) == 0 || t.file != nil && all[0].number == t.number { // the next one is not there yet
		if t.file == nil {
			return false, nil
		}
		return false, t.read(ctx)
	}
	next := len(all) - 1
	if t.file != nil {
		if err := t.read(ctx); err != nil {
			return false, err
		}
		if i := slices.IndexFunc(all, func(p part) bool { return p.number == t.number }); i > 0 {
			next = i - 1
		} else if i < 0 { // it was moved elsewhere
			t.last = t.newest
		}
	}
	t.close()
	return true, t.open(all[next], 0)
}

// read tells the lines that are new.
func (t *fileTail) read(ctx context.Context) error {
	info, err := t.file.Stat()
	if err != nil {
		return unreadable(err)
	}
	if info.Size() < t.offset { // it was emptied
		t.offset = 0
	}
	var told error
	err = newReader(t.file).after(t.offset, func(_, end int64, line []byte) bool {
		e, ok := t.files.entry(t.filter, t.needles, line)
		if ok && e.At.After(t.last) {
			e.ID = encode(filePlace{File: t.number, Offset: end, At: e.At.UnixNano()})
			told = t.tell(e)
		}
		t.offset = end
		if at := timeOf(line); at.After(t.newest) {
			t.newest = at
		}
		if told == nil && ctx.Err() != nil {
			told = context.Cause(ctx)
		}
		return told == nil
	})
	if err != nil {
		return unreadable(err)
	}
	return told
}
