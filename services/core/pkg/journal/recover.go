package journal

import (
	"bytes"
	"cmp"
	"encoding/json"
	"os"
	"slices"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// scan builds the index: packs are read, segments are taken by their names.
// What is in a segment is looked at when its journal is first used, so that a
// start with many old journals is quick.
func (s *Store) scan() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return ioError(err, "the journal directory cannot be read")
	}
	names := make(map[int64]string)
	for _, e := range entries {
		if seq, ok := parsePackName(e.Name()); ok {
			names[seq] = e.Name()
			s.packs.last = max(s.packs.last, seq)
			continue
		}
		if k, base, ok := parseSegmentName(e.Name()); ok {
			info, err := e.Info()
			if err != nil {
				return ioError(err, "a journal cannot be read")
			}
			j := s.found(k)
			j.segments = append(j.segments, &segment{base: base, size: info.Size()})
			j.account(info.Size(), info.ModTime())
		}
	}
	for seq, name := range names {
		err := s.packs.load(name, seq, func(r record, e extent) {
			j := s.found(r.key)
			j.account(int64(r.size), r.at)
			switch r.f.kind {
			case kindBegin:
				j.begin, j.note = append(j.begin, e), bytes.Clone(r.f.data)
				return
			case kindEnd:
				if end, err := parseEnd(r.f.data); err == nil {
					j.end = &end
				}
			}
			j.extents = append(j.extents, e)
		})
		if err != nil {
			return err
		}
	}
	for k, j := range s.journals {
		s.fresh.add(k)
		slices.SortFunc(j.segments, func(a, b *segment) int { return cmp.Compare(a.base, b.base) })
		slices.SortFunc(j.extents, func(a, b extent) int {
			return cmp.Or(cmp.Compare(a.offset, b.offset), cmp.Compare(a.end(), b.end()))
		})
		if n := len(j.extents); n > 0 {
			j.next = j.extents[n-1].end()
		}
	}
	return nil
}

// found gives the journal of a key that was seen on disk.
func (s *Store) found(k Key) *Journal {
	j := s.journals[k]
	if j == nil {
		j = newJournal(s, k)
		j.loaded = false // its last segment is to be looked at
		j.modified = time.Time{}
		s.journals[k] = j
	}
	return j
}

// load looks at the last segment that an earlier process wrote: it finds the
// last whole frame, cuts off what is behind it, and learns the next offset and
// the end. The segments before it are complete.
func (j *Journal) load() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.loaded || j.fail != nil || len(j.segments) == 0 {
		j.loaded = true
		return j.fail
	}
	last := j.segments[len(j.segments)-1]
	path := j.store.path(j.key, last.base)
	data, err := os.ReadFile(path)
	if err != nil {
		return ioError(err, "the journal cannot be read")
	}
	t := scanTail(data, last.base)
	if t.size < int64(len(data)) {
		if err := os.Truncate(path, t.size); err != nil {
			return ioError(err, "the journal's torn end cannot be cut off")
		}
	}
	j.account(t.size-last.size, j.modified)
	last.size = t.size
	j.next, j.end = t.next, t.end
	j.loaded = true
	return nil
}

type tail struct {
	size int64 // up to where the segment is whole
	next int64
	end  *domain.ExecutionEnd
}

// scanTail reads a segment that begins at base up to its last whole frame.
func scanTail(data []byte, base int64) tail {
	t := tail{next: base}
	if len(data) < len(magic) || string(data[:len(magic)]) != magic {
		return t
	}
	t.size = int64(len(magic))
	for t.end == nil {
		f, v := parseFrame(data[t.size:])
		if v != whole || f.offset != t.next {
			break
		}
		if !holdsOutput(f.kind) {
			end, err := parseEnd(f.data)
			if err != nil {
				break
			}
			t.end = &end
		} else {
			t.next += int64(len(f.data))
		}
		t.size += int64(f.size())
	}
	return t
}

func parseEnd(data []byte) (domain.ExecutionEnd, error) {
	var end domain.ExecutionEnd
	if err := json.Unmarshal(data, &end); err != nil {
		return end, errors.Wrap(err, errors.Internal, "the execution's end cannot be read")
	}
	return end, nil
}
