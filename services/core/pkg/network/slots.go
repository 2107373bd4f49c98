package network

import "math/rand/v2"

// slots gives out the numbers 0..n-1 next-fit: what was freed last is used
// again last, so that leftovers of a machine (files with its IDs, late
// packets to its address) have the longest time to fade. It starts at a
// random place so that a restart does not begin again with the newest.
type slots struct {
	n    int
	next int
	used map[int]struct{}
}

func newSlots(n int) *slots {
	return &slots{n: n, next: rand.IntN(max(n, 1)), used: map[int]struct{}{}}
}

// grow makes room for more numbers; the used ones stay used.
func (s *slots) grow(n int) { s.n = max(s.n, n) }

func (s *slots) take() (int, bool) {
	for range s.n {
		i := s.next % s.n
		s.next = (i + 1) % s.n
		if _, ok := s.used[i]; !ok {
			s.used[i] = struct{}{}
			return i, true
		}
	}
	return 0, false
}

func (s *slots) mark(i int) { s.used[i] = struct{}{} }

func (s *slots) free(i int) { delete(s.used, i) }
