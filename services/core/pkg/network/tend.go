package network

import (
	"context"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// How often the processes of the host are looked through for IDs to free, and
// how long a failing refill waits.
const (
	reapEvery      = 5 * time.Second
	refillWaitLow  = time.Second
	refillWaitHigh = time.Minute
)

// poke asks the background work to look at pool and drain.
func (m *Manager) poke() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// tend keeps the pool full and frees what has drained, until Close.
func (m *Manager) tend() {
	defer m.tasks.Done()
	timer := time.NewTimer(0)
	defer timer.Stop()
	var lastReap time.Time
	wait := map[domain.NetworkMode]time.Duration{}
	notBefore := map[domain.NetworkMode]time.Time{}
	for {
		select {
		case <-m.ctx.Done():
			return
		case <-m.wake:
		case <-timer.C:
		}
		var next time.Duration // until something must be looked at again; 0: when poked
		sooner := func(d time.Duration) {
			if next == 0 || d < next {
				next = d
			}
		}
		for mode, size := range m.pools() {
			if d := time.Until(notBefore[mode]); d > 0 {
				sooner(d)
				continue
			}
			if err := m.refill(m.ctx, mode, size); err != nil {
				wait[mode] = min(max(2*wait[mode], refillWaitLow), refillWaitHigh)
				if errors.HasCode(err, errors.Unsupported) {
					wait[mode] = refillWaitHigh // only someone's doing helps
				}
				notBefore[mode] = time.Now().Add(wait[mode])
				sooner(wait[mode])
				if m.ctx.Err() == nil {
					m.cfg.Log.Warn("cannot refill the network pool", "mode", mode, "retry_in", wait[mode], "err", err)
				}
				continue
			}
			wait[mode] = 0
		}
		if since := time.Since(lastReap); since < reapEvery {
			if len(m.inState(stateDraining))+len(m.inState(stateRemoving)) > 0 {
				sooner(reapEvery - since)
			}
		} else {
			lastReap = time.Now()
			waiting, err := m.reap()
			if err != nil {
				m.cfg.Log.Warn("cannot free the IDs of ended machines", "err", err)
			}
			if waiting > 0 || err != nil {
				sooner(reapEvery)
			}
		}
		if next > 0 {
			timer.Reset(next)
		}
	}
}

// Warm fills the pools now, instead of in the background, and returns when
// they are full. Returns what Acquire would.
func (m *Manager) Warm(ctx context.Context) error {
	if !m.begin() {
		return errClosed()
	}
	defer m.tasks.Done()
	for mode, size := range m.pools() {
		if err := m.refill(ctx, mode, size); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (m *Manager) pools() map[domain.NetworkMode]int {
	return map[domain.NetworkMode]int{domain.NetworkNone: m.cfg.PoolNone, domain.NetworkNAT: m.cfg.PoolNAT}
}

// refill makes pairs of a mode until size are ready.
func (m *Manager) refill(ctx context.Context, mode domain.NetworkMode, size int) error {
	for ctx.Err() == nil && m.ctx.Err() == nil && m.countReady(mode) < size {
		p, err := m.makePair(mode)
		if err != nil {
			return err
		}
		m.mu.Lock()
		err = m.pool(p)
		m.mu.Unlock()
		if err != nil {
			return errors.Join(err, m.takeApart(p))
		}
	}
	return nil
}

func (m *Manager) countReady(mode domain.NetworkMode) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, p := range m.pairs {
		if p.rec.State == stateReady && p.rec.Mode == mode {
			n++
		}
	}
	return n
}
