package journal

import (
	"slices"
	"sync"
)

// fresh is which journals have ended, or may have, and are not known to be
// elsewhere, too. Its mutex is taken after every other.
type fresh struct {
	mu   sync.Mutex
	keys map[Key]struct{}
}

func (f *fresh) add(k Key) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.keys == nil {
		f.keys = make(map[Key]struct{})
	}
	f.keys[k] = struct{}{}
}

func (f *fresh) drop(k Key) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.keys, k)
}

func (f *fresh) all() []Key {
	f.mu.Lock()
	defer f.mu.Unlock()
	keys := make([]Key, 0, len(f.keys))
	for k := range f.keys {
		keys = append(keys, k)
	}
	return keys
}

// Uncarried tells of how many journals that have ended, or may have, Carried was
// not called.
func (s *Store) Uncarried() int {
	s.fresh.mu.Lock()
	defer s.fresh.mu.Unlock()
	return len(s.fresh.keys)
}

// Fresh lists the journals that have ended and that Carried was not called for,
// longest ended first. After a restart these are all that have ended.
// What cannot be read is left out.
func (s *Store) Fresh() []Info {
	var out []Info
	for _, k := range s.fresh.all() {
		j, err := s.Lookup(k) // which reads its end, if an earlier process wrote it
		if err != nil {
			continue
		}
		s.fresh.drop(k)
		if _, ended := j.Ended(); ended {
			s.fresh.add(k)
			s.mu.Lock()
			out = append(out, j.info())
			s.mu.Unlock()
		} // else its end adds it
		j.Close()
	}
	slices.SortFunc(out, func(a, b Info) int { return a.Modified.Compare(b.Modified) })
	return out
}

// Carried says that a journal which has ended is elsewhere, too: Relieve may
// remove it. Absent is success.
func (s *Store) Carried(k Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if j := s.journals[k]; j != nil {
		j.mu.Lock()
		j.carried = true
		j.mu.Unlock()
	}
	s.fresh.drop(k)
}

// Relieve deletes journals that are elsewhere, too, and that nobody holds open,
// oldest first, until at least so many bytes are gone. It tells how many went.
func (s *Store) Relieve(bytes int64) (int, error) {
	until := s.Bytes() - bytes
	return s.removeWhile(func(i Info) bool { return i.Carried && s.Bytes() > until })
}
