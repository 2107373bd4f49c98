// Package storetest is the conformance suite of storage.Store: every
// implementation passes it. It knows no database.
package storetest

import (
	"context"
	"reflect"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

// Open makes a fresh, empty store that is closed by t.Cleanup.
type Open func(t *testing.T) storage.Store

// Run runs the suite.
func Run(t *testing.T, open Open) {
	t.Helper()
	for name, f := range map[string]func(*env){
		"transactions commit and roll back": transactions,
		"writers take turns":                concurrentWriters,
		"a view is one state":               consistentViews,
		"a write that fails fails it all":   failedWrites,
		"a read is one statement":           reads,
		"commits with events wake readers":  changed,
		"a closed store says so":            closed,
		"a dead context ends a transaction": deadContext,

		"projects and settings": projectsAndSettings,

		"VMs keep every field":        vmFields,
		"VMs are of their project":    vmTenancy,
		"VM names":                    vmNames,
		"VM updates are optimistic":   vmOptimistic,
		"VM lists":                    vmLists,
		"VM lists by metadata":        vmMetadata,
		"VMs that need a step":        vmUnconverged,
		"VMs whose time is up":        vmDeadlines,
		"VMs of a worker":             vmOnWorker,
		"tombstones":                  vmTombstones,
		"pages hold together":         pages,
		"bad cursors are refused":     badCursors,
		"machines":                    machines,
		"claiming machines":           claims,
		"workers and what is held":    workers,
		"sums are as counted":         sums,
		"join tokens":                 joinTokens,
		"workers that are away":       liveness,
		"executions keep every field": executionFields,
		"executions only go forward":  executionUpserts,
		"executions by state and age": executionQueries,
		"output in the storage":       outputPacks,
		"archives":                    archives,
		"uploads":                     uploads,

		"templates, tags and names":     templates,
		"public templates":              publicTemplates,
		"builds that are lost":          lostBuilds,
		"workers that are removed":      removedWorkers,
		"builds":                        builds,
		"builds in use":                 buildsInUse,
		"snapshots":                     snapshots,
		"tasks":                         tasks,
		"runs":                          runs,
		"the outbox":                    outbox,
		"usage":                         usage,
		"API keys":                      keys,
		"quotas":                        quotas,
		"rotated API keys":              rotatedKeys,
		"held API keys":                 heldKeys,
		"VMs with something else":       joinedVMs,
		"machines begin":                machinesBegin,
		"many at once":                  manyAtOnce,
		"users":                         users,
		"members":                       members,
		"projects go with all":          projectsGo,
		"projects' past goes":           projectsPast,
		"the audit log":                 audit,
		"rare records among many":       auditRare,
		"idempotency keys":              idempotency,
		"answers":                       answers,
		"secrets":                       secrets,
		"sealed values":                 sealedValues,
		"volumes":                       volumes,
		"volumes in use":                volumesInUse,
		"webhooks":                      webhooks,
		"text from outside stays as is": hostileText,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(&env{T: t, store: open(t), now: time.Date(2026, 3, 4, 5, 6, 7, 8000, time.UTC)})
		})
	}
}

// env is what each test has: a store of its own and helpers that fail it.
type env struct {
	*testing.T
	store storage.Store
	now   time.Time
}

func (e *env) ctx() context.Context { return e.Context() }

// update runs a transaction that must commit.
func (e *env) update(f func(tx storage.Tx) error) {
	e.Helper()
	if err := e.store.Update(e.ctx(), f); err != nil {
		e.Fatalf("update: %v", err)
	}
}

// view runs a read that must succeed.
func (e *env) view(f func(tx storage.Tx) error) {
	e.Helper()
	if err := e.store.View(e.ctx(), f); err != nil {
		e.Fatalf("view: %v", err)
	}
}

// refused runs a transaction that must fail with a code.
func (e *env) refused(code errors.Code, f func(tx storage.Tx) error) {
	e.Helper()
	if err := e.store.Update(e.ctx(), f); errors.CodeOf(err) != code {
		e.Fatalf("got %v, want code %s", err, code)
	}
}

// tick moves the test's clock on and returns it.
func (e *env) tick() time.Time {
	e.now = e.now.Add(time.Second)
	return e.now
}

func (e *env) project(name string) domain.ID {
	e.Helper()
	p := &domain.Project{ID: domain.NewID(), Name: name, CreatedAt: e.tick()}
	e.update(func(tx storage.Tx) error { return tx.Projects().Insert(e.ctx(), p) })
	return p.ID
}

// newVM gives a plain VM that is not stored yet.
func (e *env) newVM(project domain.ID) *domain.VM {
	at := e.tick()
	return &domain.VM{
		ID: domain.NewID(), ProjectID: project,
		Spec: domain.VMSpec{
			Template: "base", Driver: "oci", Platform: "linux/amd64", Network: domain.NetworkNAT, Hostname: "h",
			Resources: domain.Resources{MilliCPU: 1000, MemoryBytes: 1 << 30, DiskBytes: 4 << 30, PIDs: 100},
		},
		Isolation: domain.IsolationContainer, Desired: domain.WantRunning, Observed: domain.Pending, PauseMode: domain.PauseFreeze,
		OnTimeout: domain.TimeoutKill, Generation: 1, CreatedAt: at, UpdatedAt: at,
	}
}

// vm stores a VM after change.
func (e *env) vm(project domain.ID, change func(*domain.VM)) *domain.VM {
	e.Helper()
	vm := e.newVM(project)
	if change != nil {
		change(vm)
	}
	e.update(func(tx storage.Tx) error { return tx.VMs().Insert(e.ctx(), vm) })
	return vm
}

// save updates a VM after change.
func (e *env) save(vm *domain.VM, change func(*domain.VM)) {
	e.Helper()
	change(vm)
	e.update(func(tx storage.Tx) error { return tx.VMs().Update(e.ctx(), vm) })
}

// same compares what was stored with what came back.
func same[T any](e *env, what string, got, want T) {
	e.Helper()
	if !reflect.DeepEqual(got, want) {
		e.Fatalf("%s:\n got %+v\nwant %+v", what, got, want)
	}
}

// read gives what a read returns, which must succeed.
func read[T any](e *env, f func(tx storage.Tx) (T, error)) T {
	e.Helper()
	var out T
	e.view(func(tx storage.Tx) (err error) {
		out, err = f(tx)
		return err
	})
	return out
}

// code runs a read and gives its error's code.
func code[T any](e *env, f func(tx storage.Tx) (T, error)) errors.Code {
	e.Helper()
	return errors.CodeOf(e.store.View(e.ctx(), func(tx storage.Tx) error {
		_, err := f(tx)
		return err
	}))
}

func ids[T any](items []T, id func(T) domain.ID) []domain.ID {
	out := []domain.ID{}
	for _, it := range items {
		out = append(out, id(it))
	}
	return out
}

func vmIDs(vms []*domain.VM) []domain.ID {
	return ids(vms, func(vm *domain.VM) domain.ID { return vm.ID })
}

func ptr[T any](v T) *T { return &v }
