package execution_test

import (
	"context"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/agent/execution"
)

func TestRename(t *testing.T) {
	r := newRegistry(t, 0)
	one, two, new1, new2 := id(1), id(2), id(11), id(12)
	ex := start(t, r, 1, "sleep", "1000")
	start(t, r, 2, "sleep", "1000")
	hold, err := ex.Hold(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer hold.Release()
	for name, tc := range map[string]struct {
		ids  map[string]string
		code errors.Code
	}{
		"unknown":          {map[string]string{one: new1, id(99): new2}, errors.NotFound},
		"malformed":        {map[string]string{one: "no ID"}, errors.InvalidArgument},
		"another has it":   {map[string]string{one: two}, errors.AlreadyExists},
		"two get the same": {map[string]string{one: new1, two: new1}, errors.AlreadyExists},
	} {
		if err := r.Rename(tc.ids); !errors.HasCode(err, tc.code) {
			t.Errorf("%s: %v, want %s", name, err, tc.code)
		}
	}
	if ex.ID() != one || hold.Context.Err() != nil {
		t.Error("a refused request had an effect")
	}
	for range 2 { // already so is success
		if err := r.Rename(map[string]string{one: new1, two: new2}); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := r.Get(new1); err != nil || got != ex || ex.ID() != new1 {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := r.Get(one); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("the old ID: %v", err)
	}
	if !errors.Is(context.Cause(hold.Context), execution.ErrTaken) {
		t.Errorf("who held it has %v", context.Cause(hold.Context))
	}
	for _, e := range r.Running() {
		_ = e.Signal(9)
		<-e.Ended()
	}
	r.Forget([]string{new1, new2})
	if list, _, _ := r.After(0); len(list) != 0 {
		t.Errorf("%d are still remembered", len(list))
	}
}
