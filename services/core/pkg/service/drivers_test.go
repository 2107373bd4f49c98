package service_test

import (
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

func TestADriverIsChosenByWhatIsAskedFor(t *testing.T) {
	t.Parallel()
	driver := func(name string, i domain.Isolation, reason string) domain.DriverInfo {
		return domain.DriverInfo{Name: name, Isolation: i, Usable: reason == "", Reason: reason}
	}
	oci, fc := driver("oci", domain.IsolationContainer, ""), driver("firecracker", domain.IsolationMicroVM, "")
	qemu, docker := driver("qemu", domain.IsolationMicroVM, ""), driver("docker", domain.IsolationContainerRoot, "")
	noFC := driver("firecracker", domain.IsolationMicroVM, "KVM does not work here\nmore of it")
	noOCI := driver("oci", domain.IsolationContainer, "no runtime works")
	for _, tc := range []struct {
		name    string
		drivers []domain.DriverInfo
		deflt   string
		driver  string
		minimum domain.Isolation
		want    string
		field   string // of the refusal
		hint    string
	}{
		{"nothing asked", []domain.DriverInfo{docker, fc, oci, qemu}, "oci", "", "", "oci", "", ""},
		{"nothing asked, and the default cannot be used", []domain.DriverInfo{docker, fc, noOCI}, "oci", "", "", "", "driver", "doctor"},
		{"another default", []domain.DriverInfo{docker, fc, oci}, "docker", "", "", "docker", "", ""},
		{"auto takes the default", []domain.DriverInfo{docker, fc, oci}, "docker", "auto", "", "docker", "", ""},
		{"auto without the default", []domain.DriverInfo{docker, fc, noOCI, qemu}, "oci", "auto", "", "firecracker", "", ""},
		{"auto by default", []domain.DriverInfo{docker, fc, oci, qemu}, "auto", "", "", "oci", "", ""},
		{"auto does not go below a container", []domain.DriverInfo{docker, noOCI}, "oci", "auto", "", "", "driver", "docker"},
		{"but where that is asked for", []domain.DriverInfo{docker, noOCI}, "oci", "auto", domain.IsolationContainerRoot, "docker", "", ""},
		{"a microVM", []domain.DriverInfo{docker, fc, oci, qemu}, "oci", "", domain.IsolationMicroVM, "firecracker", "", ""},
		{"a microVM where one driver cannot", []domain.DriverInfo{docker, noFC, oci, qemu}, "oci", "auto", domain.IsolationMicroVM, "qemu", "", ""},
		{"a microVM where none can", []domain.DriverInfo{docker, noFC, oci}, "oci", "", domain.IsolationMicroVM, "", "min_isolation", "firecracker cannot be used: KVM does not work here"},
		{"the default isolates enough", []domain.DriverInfo{docker, fc, oci}, "oci", "", domain.IsolationContainer, "oci", "", ""},
		{"the default does not", []domain.DriverInfo{docker, fc, oci}, "docker", "", domain.IsolationContainer, "oci", "", ""},
		{"a driver that isolates too little", []domain.DriverInfo{docker, noFC, oci, qemu}, "oci", "docker", domain.IsolationMicroVM, "", "min_isolation", "these can: qemu"},
		{"a driver by name", []domain.DriverInfo{docker, fc, oci}, "oci", "docker", "", "docker", "", ""},
		{"a driver that cannot be used", []domain.DriverInfo{noFC, oci}, "oci", "firecracker", "", "", "driver", "doctor"},
		{"no such driver", []domain.DriverInfo{oci}, "oci", "xen", "", "", "driver", "doctor"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, func(c *service.Config) { c.DefaultDriver = tc.deflt })
			must(t, b.store.Update(b.ctx, func(tx storage.Tx) error {
				w, err := tx.Workers().ByName(b.ctx, "node")
				if err != nil {
					return err
				}
				w.Drivers = tc.drivers
				return tx.Workers().Update(b.ctx, w)
			}))
			vm, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{Driver: tc.driver, MinIsolation: tc.minimum})
			if tc.want != "" {
				if err != nil || vm.Spec.Driver != tc.want {
					t.Fatalf("%+v, %v; want %s", vm, err, tc.want)
				}
				for _, d := range tc.drivers {
					if d.Name == tc.want && vm.Isolation != d.Isolation {
						t.Errorf("it isolates by %s", vm.Isolation)
					}
				}
				return
			}
			var e *errors.Error
			if !errors.As(err, &e) || e.Code != errors.Unsupported || e.Field != tc.field || !strings.Contains(e.Hint, tc.hint) || strings.Contains(e.Hint, "more of it") {
				t.Errorf("%+v %v", vm, err)
			}
		})
	}
}

// What is made from a VM's disk has that VM's driver: another is refused, whether
// there is one of that name or not.
func TestWhatIsMadeFromAVMHasItsDriver(t *testing.T) {
	t.Parallel()
	b := newBench(t, roomy)
	origin, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{})
	must(t, err)
	must(t, b.observe(origin.ID, domain.Running))
	_, err = b.CreateSnapshot(b.ctx, b.by, origin.ID, vmm.CreateSnapshot{Name: "taken"})
	must(t, err)
	made := map[string]func(driver string) (*domain.VM, error){
		"a fork": func(driver string) (*domain.VM, error) {
			vms, err := b.ForkVM(b.ctx, b.by, origin.ID, 1, vmm.CreateVM{Driver: driver})
			if err != nil {
				return nil, err
			}
			return vms[0], nil
		},
		"of a snapshot": func(driver string) (*domain.VM, error) {
			return b.CreateVM(b.ctx, b.by, vmm.CreateVM{Template: "taken", Driver: driver})
		},
		"foreseen": func(driver string) (*domain.VM, error) {
			return b.Foresee(b.ctx, b.by, vmm.CreateVM{Template: "taken", Driver: driver})
		},
	}
	for name, make := range made {
		for _, driver := range []string{"", "auto", "fake"} {
			if vm, err := make(driver); err != nil || vm.Spec.Driver != "fake" {
				t.Errorf("%s, driver %q: %+v, %v", name, driver, vm, err)
			}
		}
		for _, driver := range []string{"qemu", "xen"} {
			_, err := make(driver)
			var e *errors.Error
			if !errors.As(err, &e) || e.Code != errors.Unsupported || e.Field != "driver" || !strings.Contains(e.Message, "fake") {
				t.Errorf("%s, driver %q: %v", name, driver, err)
			}
		}
	}
}
