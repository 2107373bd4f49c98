package storetest

import (
	"encoding/base64"
	"fmt"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

// sealedValues finds every sealed value whatever it is of, and gives it another
// form without touching anything else.
func sealedValues(e *env) {
	p, q := e.project("p"), e.project("q")
	var vms []*domain.VM
	for i := range 5 {
		vms = append(vms, e.vm([]domain.ID{p, q}[i%2], func(vm *domain.VM) {
			vm.EnvSealed, vm.TokenSealed = fmt.Append(nil, "env ", i), fmt.Append(nil, "token ", i)
			if i == 4 {
				vm.EnvSealed = nil
			}
		}))
	}
	x := e.execution(vms[0], func(x *domain.Execution) { x.CommandSealed = []byte("command") })
	snap := &domain.Snapshot{
		ID: domain.NewID(), ProjectID: p, VMID: vms[0].ID, Driver: "oci", Kind: domain.SnapshotDisk, State: domain.BuildReady,
		EnvSealed: []byte("snapshot"), CreatedAt: e.tick(),
	}
	secret := &domain.Secret{ID: domain.NewID(), ProjectID: q, Name: "S", Sealed: []byte("secret"), CreatedAt: e.now, UpdatedAt: e.now}
	e.update(func(tx storage.Tx) error {
		return errors.Join(tx.Snapshots().Insert(e.ctx(), snap), tx.Secrets().Put(e.ctx(), secret),
			tx.Settings().Set(e.ctx(), storage.SettingKeyCheck, base64.StdEncoding.EncodeToString([]byte("check"))),
			tx.Settings().Set(e.ctx(), storage.SealedSettings+"odd", "no base64!"),
			tx.Settings().Set(e.ctx(), "plain", "plain"))
	})
	e.volume(q, "v")
	e.update(func(tx storage.Tx) error {
		return tx.Answers().Insert(e.ctx(), &storage.Answer{ID: storage.AnswerID("k"), ProjectID: p, AnswerSealed: []byte("answer"), CreatedAt: e.now, ExpiresAt: e.now})
	})
	e.update(func(tx storage.Tx) error {
		return tx.Tasks().Insert(e.ctx(), &domain.Task{
			ID: domain.NewID(), ProjectID: p, Kind: "run", State: domain.TaskPending, CreatedAt: e.now, UpdatedAt: e.now, RunAt: e.now, SpecSealed: []byte("spec"),
		})
	})
	e.webhook(p)
	e.packed(e.execution(vms[0], ended(e)))
	e.archive(p, domain.NewID())
	type at struct{ column, row, value string }
	all := func() map[string]at {
		e.Helper()
		out := map[string]at{}
		e.view(func(tx storage.Tx) error {
			for _, column := range tx.Sealed().Columns() {
				for after := ""; ; {
					values, err := tx.Sealed().Page(e.ctx(), column, after, 2)
					if err != nil {
						return err
					}
					for _, v := range values {
						out[column+" "+string(v.Sealed)] = at{column, v.Row, string(v.Sealed)}
						after = v.Row
					}
					if len(values) < 2 {
						break
					}
				}
			}
			return nil
		})
		return out
	}
	found := all()
	if len(found) != 5+4+1+1+1+2+1+1+1+1+1+1 {
		e.Fatalf("found %d: %v", len(found), found)
	}
	for _, v := range found {
		if v.value == "" {
			continue // the odd one
		}
		e.update(func(tx storage.Tx) error {
			if ok, err := tx.Sealed().Replace(e.ctx(), v.column, v.row, []byte("else"), []byte("lost")); ok || err != nil {
				e.Errorf("%+v: replaced though it is another, %v", v, err)
			}
			ok, err := tx.Sealed().Replace(e.ctx(), v.column, v.row, []byte(v.value), []byte("new "+v.value))
			if !ok {
				e.Errorf("%+v: not replaced", v)
			}
			return err
		})
	}
	if again := all(); len(again) != len(found) || again["vms.env_sealed new env 0"].row != found["vms.env_sealed env 0"].row {
		e.Errorf("afterwards %v", again)
	}
	want := *vms[1]
	want.EnvSealed, want.TokenSealed = []byte("new env 1"), []byte("new token 1")
	same(e, "VM", e.getVM(q, want.ID), &want)
	if got := e.getVM(p, vms[4].ID); got.EnvSealed != nil {
		e.Errorf("a VM without environment has %q", got.EnvSealed)
	}
	if got := e.getExecution(p, x.ID); string(got.CommandSealed) != "new command" {
		e.Errorf("command %q", got.CommandSealed)
	}
	for key, want := range map[string]string{"plain": "plain", storage.SettingKeyCheck: base64.StdEncoding.EncodeToString([]byte("new check"))} {
		if got := read(e, func(tx storage.Tx) (string, error) { return tx.Settings().Get(e.ctx(), key) }); got != want {
			e.Errorf("%s: %q", key, got)
		}
	}
	e.refused(errors.InvalidArgument, func(tx storage.Tx) error {
		_, err := tx.Sealed().Page(e.ctx(), "api_keys.hash", "", 1)
		return err
	})
	e.refused(errors.InvalidArgument, func(tx storage.Tx) error {
		_, err := tx.Sealed().Replace(e.ctx(), "vms.name", "r", nil, nil)
		return err
	})
}
