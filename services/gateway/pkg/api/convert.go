package api

import (
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/apiform"
	"github.com/aetherium/aetherium/services/core/pkg/image/steps"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

func ms(d time.Duration) int64 { return d.Milliseconds() }

func fromMS(n int64) time.Duration { return time.Duration(n) * time.Millisecond }

func mapped[T, U any](in []T, f func(T) U) []U {
	out := make([]U, len(in))
	for i, v := range in {
		out[i] = f(v)
	}
	return out
}

func listOf[T, U any](l vmm.List[T], f func(T) U) *wire.List[U] {
	return &wire.List[U]{Items: mapped(l.Items, f), NextCursor: l.Next}
}

func toResources(r *wire.Resources) domain.Resources {
	if r == nil {
		return domain.Resources{}
	}
	return domain.Resources{MilliCPU: r.MilliCPU, MemoryBytes: r.MemoryBytes, DiskBytes: r.DiskBytes, PIDs: r.PIDs}
}

// toCreate translates a request; what the tags cannot bound is checked by the
// domain's own rules, in the core.
func toCreate(c wire.CreateVM) vmm.CreateVM {
	out := vmm.CreateVM{
		Name: c.Name, Template: c.Template, Driver: c.Driver, MinIsolation: domain.Isolation(c.MinIsolation),
		Resources: toResources(c.Resources), Network: domain.NetworkMode(c.Network), Env: c.Env, Metadata: c.Metadata,
		IdleTimeout: fromMS(c.IdleTimeoutMS), OnTimeout: domain.OnTimeout(c.OnTimeout), AutoResume: c.AutoResume,
		Hostname: c.Hostname, DefaultUser: c.DefaultUser, Tools: c.Tools, Memory: c.Memory,
	}
	if c.Egress != nil {
		p := toEgress(*c.Egress)
		out.Egress = &p
	}
	if c.Secrets != nil {
		out.Secrets = mapped(c.Secrets, toSecretUse)
	}
	if c.Volumes != nil {
		out.Mounts = mapped(c.Volumes, toMount)
	}
	if c.TimeoutMS != nil {
		d := fromMS(*c.TimeoutMS)
		out.Timeout = &d
	}
	return out
}

func toPatch(p wire.PatchVM) vmm.PatchVM {
	out := vmm.PatchVM{Name: p.Name, AutoResume: p.AutoResume}
	if p.Metadata != nil {
		out.Metadata = *p.Metadata
		if out.Metadata == nil {
			out.Metadata = map[string]string{}
		}
	}
	if p.TimeoutMS != nil {
		d := fromMS(*p.TimeoutMS)
		out.Timeout = &d
	}
	if p.IdleTimeoutMS != nil {
		d := fromMS(*p.IdleTimeoutMS)
		out.IdleTimeout = &d
	}
	if p.OnTimeout != nil {
		o := domain.OnTimeout(*p.OnTimeout)
		out.OnTimeout = &o
	}
	return out
}

func snapshot(s *domain.Snapshot) wire.Snapshot {
	out := wire.Snapshot{
		ID: s.ID.String(), VMID: s.VMID.String(), Name: s.Name, BuildID: s.BuildID.String(), Driver: s.Driver,
		Kind: string(s.Kind), State: string(s.State), SizeBytes: s.Bytes, CreatedAt: s.CreatedAt, Version: s.DriverVersion,
	}
	if s.Packed != nil {
		out.Stored = s.Packed.Bytes
	}
	return out
}

func fileInfo(f vmm.FileInfo) wire.FileInfo {
	return wire.FileInfo{
		Name: f.Name, Path: f.Path, Type: f.Type, SizeBytes: f.Size, Mode: octal(f.Mode), Owner: f.Owner, Group: f.Group,
		ModifiedAt: f.ModifiedAt.UTC(), SymlinkTarget: f.SymlinkTarget, Metadata: f.Metadata,
	}
}

func octal(mode uint32) string { return fmt.Sprintf("%04o", mode) }

// parseMode reads an octal mode that its schema has checked; empty is 0.
func parseMode(s string) uint32 {
	n, _ := strconv.ParseUint(s, 8, 16)
	return uint32(n)
}

func template(t *vmm.TemplateInfo) wire.Template {
	tags := make(map[string]string, len(t.Template.Tags))
	for tag, build := range t.Template.Tags {
		tags[tag] = build.String()
	}
	return wire.Template{
		ID: t.Template.ID.String(), Name: t.Template.Name, Tags: tags, Public: t.Template.Public,
		Builds: mapped(t.Builds, build), CreatedAt: t.Template.CreatedAt, UpdatedAt: t.Template.UpdatedAt,
	}
}

// listedTemplate is a template as lists show it: of the text of steps, which a
// page of templates would have up to two thousand times, only where they begin.
func listedTemplate(t *vmm.TemplateInfo) wire.Template {
	out := template(t)
	for i := range out.Builds {
		if s := &out.Builds[i].Source; s.Steps != "" {
			if file, err := steps.Parse(s.Steps); err == nil {
				s.Steps = file.From.Text
			} else {
				s.Steps = ""
			}
		}
	}
	return out
}

func build(b *domain.Build) wire.Build {
	out := wire.Build{
		ID: b.ID.String(), TemplateID: b.TemplateID.String(), State: string(b.State), Platform: b.Platform,
		Source:    wire.TemplateSource{Image: b.Source.Image, Packages: b.Source.Packages, Suite: b.Source.Suite, Preset: b.Source.Preset, Steps: b.Source.Steps},
		Resources: apiform.Resources(b.Shape), DefaultUser: b.DefaultUser, Reason: b.Reason, CreatedAt: b.CreatedAt, ReadyAt: b.ReadyAt,
		Start: b.Warm.Start, Ready: b.Warm.Ready,
	}
	if m := b.Memory(); m != nil {
		out.Memory = &wire.BuildMemory{
			Driver: m.Driver, DriverVersion: m.DriverVersion, Network: string(b.Warm.Network), Ready: b.Warm.Ready, SizeBytes: m.Bytes,
		}
	}
	// Where something lies on the server is the server's business.
	if b.Source.Tar != "" {
		out.Source.Tar = filepath.Base(b.Source.Tar)
	}
	if b.Source.Context != "" {
		out.Source.Context = filepath.Base(b.Source.Context)
	}
	if b.Source.Dir != "" {
		out.Source.Dir = filepath.Base(b.Source.Dir)
	}
	for _, a := range b.Artifacts {
		out.SizeBytes += a.Bytes
	}
	return out
}

func driver(d domain.DriverInfo) wire.Driver {
	if d.Capabilities == nil {
		d.Capabilities = []string{}
	}
	return wire.Driver{
		Name: d.Name, Version: d.Version, Isolation: string(d.Isolation), Usable: d.Usable, Reason: d.Reason, Capabilities: d.Capabilities,
	}
}

func worker(w *domain.Worker) wire.Worker {
	return wire.Worker{
		ID: w.ID.String(), Name: w.Name, Address: w.Address, Version: w.Version, Platform: w.Platform, State: string(w.State),
		Cordoned: w.Cordoned, DrainAt: w.DrainAt, Moving: w.Moving, Staying: w.Staying, VMs: w.VMs, Active: w.Active, Tasks: w.Tasks,
		Drivers: mapped(w.Drivers, driver), Capacity: apiform.Resources(w.Capacity), Reserved: apiform.Resources(w.Reserved),
		SeenAt: w.SeenAt, JoinedAt: w.JoinedAt,
	}
}
