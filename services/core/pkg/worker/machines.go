package worker

import (
	"sync"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/lifecycle"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// machines is what this worker knows of the machines on its node: learned
// from the drivers at the start, kept by the steps and by the exit watchers.
type machines struct {
	mu   sync.Mutex
	byID map[domain.ID]*machine
}

type machine struct {
	driver  string
	status  lifecycle.MachineStatus
	exit    *vmm.Exit // of the last run, once it ended by itself
	run     int       // counts its starts
	watched int       // the run that an exit watcher waits for the end of
	asleep  bool      // it has no process that could end: its memory is saved, or being saved
}

func (m *machines) status(id domain.ID) lifecycle.MachineStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.byID[id]; e != nil {
		return e.status
	}
	return lifecycle.MachineAbsent
}

func (m *machines) set(id domain.ID, driver string, s lifecycle.MachineStatus) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.byID == nil {
		m.byID = make(map[domain.ID]*machine)
	}
	e := m.byID[id]
	if e == nil {
		e = &machine{driver: driver}
		m.byID[id] = e
	}
	if s == lifecycle.MachineRunning && e.status != lifecycle.MachineRunning && e.status != lifecycle.MachinePaused || e.run == 0 {
		e.run++
	}
	e.status = s
	if s == lifecycle.MachineRunning {
		e.exit, e.asleep = nil, false
	}
}

// sleeps notes that a machine's process is gone, or about to go, without its end.
func (m *machines) sleeps(id domain.ID, asleep bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.byID[id]; e != nil {
		e.asleep = asleep
	}
}

func (m *machines) isAsleep(id domain.ID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.byID[id]
	return e != nil && e.asleep
}

func (m *machines) forget(id domain.ID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.byID, id)
}

// ended notes that a machine's run ended, and reports whether that is news.
func (m *machines) ended(id domain.ID, run int, exit vmm.Exit) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.byID[id]
	if e == nil || e.run != run {
		return false // it was started again meanwhile
	}
	e.watched = 0
	if e.asleep || e.status != lifecycle.MachineRunning && e.status != lifecycle.MachinePaused {
		return false
	}
	e.status, e.exit = lifecycle.MachineCreated, &exit
	return true
}

// lastExit returns how a machine ended by itself, nil when nobody saw it.
func (m *machines) lastExit(id domain.ID) *vmm.Exit {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.byID[id]; e != nil {
		return e.exit
	}
	return nil
}

// watch reports whether the caller is to start an exit watcher, and for which run.
func (m *machines) watch(id domain.ID) (run int, start bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.byID[id]
	if e == nil || e.watched == e.run {
		return 0, false
	}
	e.watched = e.run
	return e.run, true
}

// statusOf translates what a driver says.
func statusOf(s vmm.Status) lifecycle.MachineStatus {
	switch s {
	case vmm.StatusCreated:
		return lifecycle.MachineCreated
	case vmm.StatusRunning:
		return lifecycle.MachineRunning
	case vmm.StatusPaused:
		return lifecycle.MachinePaused
	}
	return lifecycle.MachineBroken
}
