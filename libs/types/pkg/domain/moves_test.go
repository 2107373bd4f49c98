package domain_test

import (
	"slices"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// Output is looked for where a VM was in an epoch, those first where it went on from
// its memory.
func TestOutputOfVMsThatMoved(t *testing.T) {
	t.Parallel()
	vm := &domain.VM{WorkerID: "one", Epoch: 1}
	leave := func(to domain.ID, memory bool) {
		vm.Moved(time.Now(), memory)
		vm.WorkerID, vm.StoredID = to, "stored"
		vm.Moved(time.Now(), memory) // from who looked after it
		vm.StoredID = ""
	}
	check := func(epoch int64, want ...domain.ID) {
		t.Helper()
		if got := vm.OutputAt(epoch); !slices.Equal(got, want) {
			t.Errorf("of epoch %d: %v, not %v (%+v)", epoch, got, want, vm.Moves)
		}
	}
	check(1, "one")
	leave("two", true)
	check(1, "two", "one")
	leave("three", true)
	check(1, "three", "two", "one")
	leave("four", false)
	check(1, "three", "two", "one")
	vm.Epoch = 2 // started there
	check(1, "three", "two", "one")
	check(2, "four")
	leave("one", true)
	check(2, "one", "four")
	leave("four", false)
	check(1, "three", "two", "one")
	check(2, "one", "four")
}
