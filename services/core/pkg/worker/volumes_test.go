package worker_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/fake"
	"github.com/aetherium/aetherium/services/core/pkg/volume"
	"github.com/aetherium/aetherium/services/core/pkg/worker"
)

// plainDisk is a directory for each volume, without limits.
type plainDisk string

func (d plainDisk) Create(_ context.Context, id string, _ int64) error {
	return os.MkdirAll(d.Path(id), 0o700)
}
func (d plainDisk) Delete(_ context.Context, id string) error { return os.RemoveAll(d.Path(id)) }
func (d plainDisk) Path(id string) string                     { return filepath.Join(string(d), id) }
func (d plainDisk) List(context.Context) ([]string, error) {
	entries, err := os.ReadDir(string(d))
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

// shows is a driver that has volumes for machines, or says so.
type shows struct {
	*fake.Driver
	specs chan vmm.Spec
}

func (d shows) Info(ctx context.Context) domain.DriverInfo {
	info := d.Driver.Info(ctx)
	info.Capabilities = append(info.Capabilities, "volumes")
	return info
}

func (d shows) Create(ctx context.Context, s vmm.Spec) (vmm.Handle, error) {
	if len(s.Mounts) > 0 {
		d.specs <- s
	}
	return d.Driver.Create(ctx, s)
}

// withVolumes is a bed whose worker keeps volumes; what machines are made with
// them comes out of the channel.
func withVolumes(t *testing.T) (*bed, plainDisk, chan vmm.Spec) {
	t.Helper()
	b := newBed(t)
	b.down()
	disk, specs := plainDisk(t.TempDir()), make(chan vmm.Spec, 16)
	b.deps = func(d *worker.Deps) {
		d.Volumes = volume.New(disk)
		d.Drivers = map[string]vmm.Driver{"fake": shows{fake.New(b.node), specs}}
	}
	b.up()
	return b, disk, specs
}

func data(v string) []domain.Mount { return []domain.Mount{{Source: v, Target: "/mnt/data"}} }

func TestVolumesOfVMs(t *testing.T) {
	t.Parallel()
	b, disk, specs := withVolumes(t)
	v, err := b.CreateVolume(b.ctx, b.by, vmm.CreateVolume{Name: "data"})
	must(t, err)
	if v.DiskBytes != 256<<20 || v.WorkerID != b.worker.ID() {
		t.Errorf("%+v", v)
	}
	content := filepath.Join(string(disk), "volume-"+string(v.ID), "content")
	vm := b.running(vmm.CreateVM{Mounts: data("data")})
	if s := <-specs; len(s.Mounts) != 1 || s.Mounts[0] != (vmm.HostMount{Source: content, Target: "/mnt/data"}) {
		t.Errorf("%+v", s.Mounts)
	}
	if got := vm.Spec.Mounts; len(got) != 1 || got[0].Source != "data" || got[0].VolumeID != v.ID {
		t.Errorf("%+v", got)
	}
	// Forks and VMs of its snapshots have what it has, unless they name others.
	forks, err := b.ForkVM(b.ctx, b.by, vm.ID, 1, vmm.CreateVM{})
	must(t, err)
	snap, err := b.CreateSnapshot(b.ctx, b.by, vm.ID, vmm.CreateSnapshot{})
	must(t, err)
	again := b.running(vmm.CreateVM{Template: snap.ID.String()})
	none := b.running(vmm.CreateVM{Template: snap.ID.String(), Mounts: []domain.Mount{}})
	if len(forks[0].Spec.Mounts) != 1 || len(again.Spec.Mounts) != 1 || len(none.Spec.Mounts) != 0 {
		t.Errorf("%+v, %+v, %+v", forks[0].Spec.Mounts, again.Spec.Mounts, none.Spec.Mounts)
	}
	if err := b.DeleteVolume(b.ctx, b.by, "data"); !errors.HasCode(err, errors.Conflict) {
		t.Error(err)
	}
	reader := b.running(vmm.CreateVM{Mounts: []domain.Mount{{Source: v.ID.String(), Target: "/srv/data", ReadOnly: true}}})
	want := vmm.HostMount{Source: content, Target: "/srv/data", ReadOnly: true}
	for made := false; !made; { // behind those that were made from the first
		select {
		case s := <-specs:
			made = s.Mounts[0] == want
		default:
			t.Fatalf("no machine was made with %+v", want)
		}
	}
	for _, id := range []domain.ID{vm.ID, forks[0].ID, again.ID, reader.ID} {
		_, err := b.DeleteVM(b.ctx, b.by, id)
		must(t, err)
		_, err = b.WaitVM(b.ctx, b.by, id)
		must(t, err)
	}
	must(t, b.DeleteVolume(b.ctx, b.by, "data"))
	if _, err := os.Stat(content); !os.IsNotExist(err) {
		t.Error(err)
	}
	// Another volume of this name is not the snapshot's.
	_, err = b.CreateVolume(b.ctx, b.by, vmm.CreateVolume{Name: "data"})
	must(t, err)
	if _, err := b.CreateVM(b.ctx, b.by, vmm.CreateVM{Template: snap.ID.String()}); !errors.HasCode(err, errors.NotFound) {
		t.Error(err)
	}
}

func TestVolumesThatCannotBe(t *testing.T) {
	t.Parallel()
	b, _, _ := withVolumes(t)
	refused := func(code errors.Code, err error) {
		t.Helper()
		if !errors.HasCode(err, code) {
			t.Errorf("%v, want %s", err, code)
		}
	}
	create := func(req vmm.CreateVolume) error {
		_, err := b.CreateVolume(b.ctx, b.by, req)
		return err
	}
	must(t, create(vmm.CreateVolume{Name: "data", DiskBytes: 1 << 30}))
	refused(errors.AlreadyExists, create(vmm.CreateVolume{Name: "data"}))
	refused(errors.InvalidArgument, create(vmm.CreateVolume{}))
	refused(errors.InvalidArgument, create(vmm.CreateVolume{Name: "small", DiskBytes: 1}))
	refused(errors.CapacityExhausted, create(vmm.CreateVolume{Name: "big", DiskBytes: 64 << 30}))
	refused(errors.InvalidArgument, create(vmm.CreateVolume{Name: "larger", DiskBytes: 65 << 30})) // whatever is deleted
	one := int64(1 << 30)
	admin := b.by
	admin.Admin = true
	_, err := b.SetQuota(b.ctx, admin, "", domain.QuotaOverride{DiskBytes: &one})
	must(t, err)
	refused(errors.QuotaExceeded, create(vmm.CreateVolume{Name: "more"}))
	_, err = b.SetQuota(b.ctx, admin, "", domain.QuotaOverride{})
	must(t, err)
	_, err = b.CreateVM(b.ctx, b.by, vmm.CreateVM{Mounts: data("none")})
	refused(errors.NotFound, err)
	_, err = b.CreateVM(b.ctx, b.by, vmm.CreateVM{Mounts: []domain.Mount{{Source: "data", Target: "/etc"}}})
	refused(errors.InvalidArgument, err)

	// A driver that cannot share a directory refuses at once.
	b.down()
	keep := b.deps
	b.deps = func(d *worker.Deps) {
		keep(d)
		d.Drivers = map[string]vmm.Driver{"fake": fake.New(b.node)}
	}
	b.up()
	for _, driver := range []string{"", "fake", domain.DriverAuto} {
		_, err = b.CreateVM(b.ctx, b.by, vmm.CreateVM{Driver: driver, Mounts: data("data")})
		refused(errors.Unsupported, err)
		if e := errors.Public(err); e.Field != "volumes" || e.Message != "the driver fake cannot give VMs volumes" || e.Hint != "no driver here can" {
			t.Errorf("%s: %+v", driver, e)
		}
	}
	refused(errors.Unsupported, create(vmm.CreateVolume{Name: "other"}))
}

func TestVolumeTokens(t *testing.T) {
	t.Parallel()
	b, _, _ := withVolumes(t)
	open := func(id domain.ID, token string) error {
		files, _, err := b.OpenVolume(b.ctx, id, token)
		if err == nil {
			err = files.Close()
		}
		return err
	}
	one, err := b.CreateVolume(b.ctx, b.by, vmm.CreateVolume{Name: "one"})
	must(t, err)
	two, err := b.CreateVolume(b.ctx, b.by, vmm.CreateVolume{Name: "two"})
	must(t, err)
	token, err := b.VolumeToken(b.ctx, b.by, one.ID)
	must(t, err)
	must(t, open(one.ID, token))
	for name, err := range map[string]error{
		"another's": open(two.ID, token), "none": open(one.ID, ""), "of none": open(domain.NewID(), token), "no ID": open("x", token), "longer": open(one.ID, token+"0"),
	} {
		if !errors.HasCode(err, errors.Unauthenticated) {
			t.Errorf("%s: %v", name, err)
		}
	}
	stranger := vmm.Caller{ProjectID: domain.NewID()}
	if _, err := b.VolumeToken(b.ctx, stranger, one.ID); !errors.HasCode(err, errors.NotFound) {
		t.Error(err)
	}
	// To the project its own are open without one.
	for _, ref := range []string{"one", one.ID.String()} {
		files, v, err := b.OpenOwnVolume(b.ctx, b.by, ref)
		must(t, err)
		must(t, files.Close())
		if v.ID != one.ID {
			t.Errorf("%+v", v)
		}
		if _, _, err := b.OpenOwnVolume(b.ctx, stranger, ref); !errors.HasCode(err, errors.NotFound) {
			t.Error(err)
		}
	}
	// It is not in the database as it is.
	must(t, b.store.View(b.ctx, func(tx storage.Tx) error {
		row, err := tx.Volumes().Get(b.ctx, b.by.ProjectID, one.ID)
		if err == nil && (len(row.TokenSealed) == 0 || string(row.TokenSealed) == token) {
			t.Errorf("%q", row.TokenSealed)
		}
		return err
	}))
}

// What a death of the process leaves between a volume's row and its data is
// put right: data without a row goes, and a row gets its data.
func TestVolumesAfterACrash(t *testing.T) {
	t.Parallel()
	b, disk, _ := withVolumes(t)
	v, err := b.CreateVolume(b.ctx, b.by, vmm.CreateVolume{Name: "data"})
	must(t, err)
	vm := b.running(vmm.CreateVM{Mounts: data("data")})
	orphan := domain.NewID()
	_, err = volume.New(disk).Make(b.ctx, orphan, 1<<20)
	must(t, err)
	b.crash()
	must(t, disk.Delete(b.ctx, "volume-"+string(v.ID)))
	b.up()
	if _, err := os.Stat(disk.Path("volume-" + string(orphan))); !os.IsNotExist(err) {
		t.Error(err)
	}
	token, err := b.VolumeToken(b.ctx, b.by, v.ID)
	must(t, err)
	files, size, err := b.OpenVolume(b.ctx, v.ID, token)
	must(t, err)
	must(t, files.Close())
	if got, err := b.GetVM(b.ctx, b.by, vm.ID); err != nil || got.Observed != domain.Running || size != v.DiskBytes {
		t.Errorf("%+v, %d, %v", got, size, err)
	}
}
