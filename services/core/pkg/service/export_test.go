package service

// Queued is how many wait for a place among those that wait for the store.
func (s *Service) Queued() (n int) {
	s.backlog.mu.Lock()
	defer s.backlog.mu.Unlock()
	for _, p := range s.backlog.queued {
		n += len(p.places)
	}
	return n
}
