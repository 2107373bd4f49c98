// Package apiform has what the API tells of things as it tells it, for the API
// itself and for what outlasts them.
package apiform

import (
	"time"

	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

func ms(d time.Duration) int64 { return d.Milliseconds() }

func mapped[T, U any](in []T, f func(T) U) []U {
	out := make([]U, len(in))
	for i, v := range in {
		out[i] = f(v)
	}
	return out
}

// VM is a VM as the API tells it.
func VM(v *domain.VM) wire.VM {
	out := wire.VM{
		ID: v.ID.String(), Name: v.Name, State: string(v.State()), UnreachableSince: v.UnreachableSince, DesiredState: string(v.Desired),
		Template: v.Spec.Template, TemplateID: v.Spec.TemplateID.String(), BuildID: v.Spec.BuildID.String(),
		SnapshotID: v.Spec.SnapshotID.String(), Memory: v.Spec.Memory, Driver: v.Spec.Driver, Isolation: string(v.Isolation),
		Platform: v.Spec.Platform, Resources: Resources(v.Spec.Resources), Network: string(v.Spec.Network),
		Hostname: v.Spec.Hostname, DefaultUser: v.Spec.DefaultUser, Tools: v.Spec.Tools, Metadata: v.Metadata, PauseMode: string(v.PauseMode),
		Deadline: v.Deadline, OnTimeout: string(v.OnTimeout), IdleTimeoutMS: ms(v.IdleTimeout), AutoResume: v.AutoResume,
		WorkerID: v.WorkerID.String(), InStorage: v.InStorage(), Epoch: v.Epoch, Generation: v.Generation, Reason: v.Reason,
		CreatedAt: v.CreatedAt, UpdatedAt: v.UpdatedAt, StartedAt: v.StartedAt, EndedAt: v.EndedAt,
	}
	if out.Metadata == nil {
		out.Metadata = map[string]string{}
	}
	if !v.Spec.Egress.IsZero() {
		p := EgressPolicy(v.Spec.Egress)
		out.Egress = &p
	}
	if len(v.Spec.Secrets) > 0 {
		out.Secrets = mapped(v.Spec.Secrets, secretUse)
	}
	if len(v.Spec.Mounts) > 0 {
		out.Volumes = mapped(v.Spec.Mounts, vmVolume)
	}
	if t := v.Tombstone; t != nil {
		out.Tombstone = &wire.Tombstone{Cause: string(t.Cause), By: t.By, Detail: t.Detail, LastOutput: t.LastOutput, At: t.At}
	}
	return out
}

// Resources are resources as the API tells them.
func Resources(r domain.Resources) wire.Resources {
	return wire.Resources{MilliCPU: r.MilliCPU, MemoryBytes: r.MemoryBytes, DiskBytes: r.DiskBytes, PIDs: r.PIDs}
}

// Execution is an execution as the API tells it. Its environment is told to nobody.
func Execution(x *domain.Execution) wire.Execution {
	out := wire.Execution{
		ID: x.ID.String(), VMID: x.VMID.String(), OriginID: x.OriginID.String(), State: string(x.State), Args: x.Command.Args, Cwd: x.Command.Cwd,
		User: x.Command.User, Stdin: x.Command.Stdin, TimeoutMS: ms(x.Command.Timeout), Epoch: x.Epoch, PID: x.PID,
		ExitCode: x.ExitCode, Signal: x.Signal, TimedOut: x.TimedOut, LostReason: x.LostReason, OutputBytes: x.OutputBytes,
		CreatedAt: x.CreatedAt, StartedAt: x.StartedAt, EndedAt: x.EndedAt, Stored: x.PackID != "",
	}
	if out.Args == nil {
		out.Args = []string{}
	}
	if p := x.Command.PTY; p != nil {
		out.PTY = &wire.PTYSize{Cols: p.Cols, Rows: p.Rows}
	}
	return out
}

// Task is a task as the API tells it.
func Task(t *domain.Task) wire.Task {
	out := wire.Task{
		ID: t.ID.String(), Kind: t.Kind, Subject: t.Subject.String(), State: string(t.State), Result: t.Result,
		Attempts: t.Attempts, MaxAttempts: t.MaxAttempts, CancelAsked: t.CancelAsked,
		CreatedAt: t.CreatedAt, UpdatedAt: t.UpdatedAt, RunAt: t.RunAt, EndedAt: t.EndedAt,
		Name: t.Name, GroupID: t.GroupID.String(), Step: string(t.Step), VMID: t.VMID.String(), ExecutionID: t.ExecutionID.String(),
	}
	if t.Error != nil {
		out.Error = &wire.TaskError{Code: t.Error.Code, Message: t.Error.Message}
	}
	return out
}

// EgressPolicy tells a policy. What its headers say and its proxy's password
// nobody is told.
func EgressPolicy(p domain.EgressPolicy) wire.EgressPolicy {
	out := wire.EgressPolicy{Allow: p.Allow, Deny: p.Deny, Learn: p.Learn, DNS: p.DNS}
	for _, r := range p.Rules {
		out.Rules = append(out.Rules, wire.HeaderRule{Host: r.Host, Headers: r.Told()})
	}
	if p.Proxy != nil {
		out.Proxy = &wire.EgressProxy{Address: p.Proxy.Address, Username: p.Proxy.Username}
		if p.Proxy.Username != "" {
			out.Proxy.Password = domain.Hidden
		}
	}
	return out
}

func secretUse(u domain.SecretUse) wire.SecretUse {
	return wire.SecretUse{Name: u.Name, Env: u.Env, Hosts: u.Hosts}
}

func vmVolume(m domain.Mount) wire.VMVolume {
	return wire.VMVolume{VolumeID: m.VolumeID.String(), VolumeMount: wire.VolumeMount{Volume: m.Source, Path: m.Target, ReadOnly: m.ReadOnly}}
}
