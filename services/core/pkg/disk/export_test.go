package disk

// GuardRounds is how often the guard has looked.
func (p *Pool) GuardRounds() int64 { return p.guard.rounds.Load() }
