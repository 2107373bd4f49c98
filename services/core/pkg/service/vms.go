package service

import (
	"context"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/libs/types/pkg/events"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/tracing"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// Keys of creation and of forks are kept apart from other uses, and for a day.
const (
	idempotencyScope    = "vm.create"
	forkScope           = "vm.fork"
	keepIdempotencyKeys = 24 * time.Hour
)

// CreateVM implements vmm.VMs.
func (s *Service) CreateVM(ctx context.Context, by vmm.Caller, req vmm.CreateVM) (vm *domain.VM, err error) {
	ctx, span := tracing.Begin(ctx, "service create")
	defer func() { span.End(err) }()
	asked := askedOf(req)
	if err := s.checkCreate(&req); err != nil {
		return nil, err
	}
	id := req.ID
	if id == "" {
		id = domain.NewID()
	}
	if vm, err = s.newVM(ctx, by, id, req); err != nil {
		return nil, err
	}
	span.Text("aetherium.vm", vm.ID.String())
	served, err := s.backlog.join(ctx, by.ProjectID)
	if err != nil {
		return nil, err
	}
	defer served()
	foreseen, err := s.foresee(ctx, by, req)
	if err != nil {
		return nil, err
	}
	existing := false
	err = s.store.Update(ctx, func(tx storage.Tx) error {
		defer served() // it has its turn
		if req.ID != "" {
			found, err := tx.VMs().Get(ctx, by.ProjectID, req.ID)
			if !errors.HasCode(err, errors.NotFound) {
				vm, existing = found, true
				return err
			}
		}
		if req.IdempotencyKey != "" {
			found, err := s.idempotentVM(ctx, tx, by, req, vm.ID)
			if err != nil {
				return err
			}
			if found != nil {
				vm, existing = found, true
				return nil
			}
		}
		build, err := s.resolveSource(ctx, tx, by, req, vm, asked, foreseen)
		if err != nil {
			return err
		}
		if err := s.withinQuota(ctx, tx, by.ProjectID, quotaOf(vm), ""); err != nil {
			return err
		}
		return s.insertVM(ctx, tx, req, vm, build)
	})
	if err != nil {
		return nil, err
	}
	if !existing {
		s.wake(ctx, vm)
	}
	return vm, nil
}

// checkCreate validates a request without looking anything up, and fills in
// what does not depend on the template.
func (s *Service) checkCreate(req *vmm.CreateVM) error {
	if req.Template == "" {
		req.Template = s.config.DefaultTemplate
	}
	if req.Driver == "" {
		req.Driver = s.config.DefaultDriver
		if req.MinIsolation != "" {
			req.Driver = domain.DriverAuto // the default one if it isolates so
		}
	}
	if req.Network == "" {
		req.Network = s.config.DefaultNetwork
	}
	if req.OnTimeout == "" {
		req.OnTimeout = domain.TimeoutKill
	}
	if err := checkEgress(req); err != nil {
		return err
	}
	for _, err := range []error{
		domain.ValidateName("name", req.Name),
		domain.ValidateTemplateRef("template", req.Template),
		req.MinIsolation.Validate("min_isolation"),
		req.Network.Validate("network"),
		domain.ValidateEnv("env", req.Env),
		domain.ValidateMetadata("metadata", req.Metadata),
		domain.ValidateHostname("hostname", req.Hostname),
		domain.ValidateUser("default_user", req.DefaultUser),
		domain.ValidateTools("tools", req.Tools),
		domain.ValidateMounts("volumes", req.Mounts),
		req.OnTimeout.Validate("on_timeout"),
		s.checkTimeout("timeout_ms", req.Timeout),
		domain.ValidateDuration("idle_timeout_ms", req.IdleTimeout),
		req.Previews.Validate("previews"),
		s.checkTimeout("resume_for_ms", resumeFor(req)),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}

func resumeFor(req *vmm.CreateVM) *time.Duration {
	if req.ResumeFor == 0 {
		return nil
	}
	return &req.ResumeFor
}

func (s *Service) checkTimeout(field string, d *time.Duration) error {
	if d == nil {
		return nil
	}
	if err := domain.ValidateDuration(field, *d); err != nil {
		return err
	}
	if s.config.MaxTimeout > 0 && (*d > s.config.MaxTimeout || *d == 0) {
		return errors.New(errors.InvalidArgument, "the timeout is longer than this installation allows").
			WithField(field).WithHint("at most %s", s.config.MaxTimeout)
	}
	return nil
}

// defaultTimeout is until the deadline of a VM that names none; 0: no deadline.
func (s *Service) defaultTimeout() time.Duration {
	d, most := s.config.DefaultTimeout, s.config.MaxTimeout
	if most > 0 && (d == 0 || d > most) {
		return most
	}
	return d
}

// newVM makes the value, with its sealed environment and token.
func (s *Service) newVM(ctx context.Context, by vmm.Caller, id domain.ID, req vmm.CreateVM) (*domain.VM, error) {
	now := s.time()
	vm := &domain.VM{
		ID:          id,
		ProjectID:   by.ProjectID,
		Name:        req.Name,
		Metadata:    req.Metadata,
		Desired:     domain.WantRunning,
		Observed:    domain.Pending,
		Generation:  1,
		OnTimeout:   req.OnTimeout,
		IdleTimeout: req.IdleTimeout,
		AutoResume:  req.AutoResume,
		CreatedAt:   now,
		UpdatedAt:   now,
		Spec: domain.VMSpec{
			Template:     req.Template,
			Driver:       req.Driver,
			MinIsolation: req.MinIsolation,
			Platform:     s.config.Platform,
			Resources:    req.Resources,
			Network:      req.Network,
			Hostname:     req.Hostname,
			DefaultUser:  req.DefaultUser,
			Previews:     req.Previews,
			ResumeFor:    req.ResumeFor,
		},
	}
	if vm.Spec.Hostname == "" {
		vm.Spec.Hostname = "vm-" + string(vm.ID[:8])
	}
	timeout := s.defaultTimeout()
	if req.Timeout != nil {
		timeout = *req.Timeout
	}
	s.setDeadline(vm, timeout)
	var err error
	if vm.TokenSealed, err = s.sealer.Seal(ctx, storage.SealedVMToken(vm.ID), newTokens()); err != nil {
		return nil, err
	}
	p := private{Env: req.Env}
	if req.Egress != nil {
		p.Rules, p.Proxy = req.Egress.Rules, req.Egress.Proxy
	}
	vm.EnvSealed, err = p.seal(ctx, s.sealer, storage.SealedVMEnv(vm.ID))
	return vm, err
}

func (s *Service) setDeadline(vm *domain.VM, timeout time.Duration) {
	vm.DeadlineGen++
	vm.Deadline = nil
	if timeout > 0 {
		at := s.time().Add(timeout)
		vm.Deadline = &at
	}
}

// idempotentVM returns the VM that this key made before, or remembers that id is being made.
func (s *Service) idempotentVM(ctx context.Context, tx storage.Tx, by vmm.Caller, req vmm.CreateVM, id domain.ID) (*domain.VM, error) {
	key, now := idempotencyScope+":"+req.IdempotencyKey, s.time()
	// Most often it is new.
	err := tx.Idempotency().Insert(ctx, &storage.Idempotent{
		ProjectID: by.ProjectID, Key: key, RequestDigest: req.RequestDigest, SubjectID: id,
		Status: 201, CreatedAt: now, ExpiresAt: now.Add(keepIdempotencyKeys),
	})
	if !errors.HasCode(err, errors.AlreadyExists) {
		return nil, err
	}
	rec, err := tx.Idempotency().Get(ctx, by.ProjectID, key, now)
	switch {
	case err != nil:
		return nil, err
	case rec.RequestDigest != req.RequestDigest:
		return nil, errKeyUsed()
	}
	return tx.VMs().Get(ctx, by.ProjectID, rec.SubjectID)
}

func errKeyUsed() error {
	return errors.New(errors.IdempotencyMismatch, "the idempotency key was used for a different request").
		WithField("Idempotency-Key").WithHint("use a new key for a new request")
}

// insertVM finds room for vm, which is made from a build if there is one, and
// stores it.
func (s *Service) insertVM(ctx context.Context, tx storage.Tx, req vmm.CreateVM, vm *domain.VM, build *domain.Build) error {
	if err := s.place(ctx, tx, vm, build); err != nil {
		return err
	}
	if err := s.warm(ctx, tx, req, vm, build); err != nil {
		return err
	}
	if err := tx.VMs().Insert(ctx, vm); err != nil {
		return err
	}
	return s.emit(ctx, tx, events.VMCreated, vm, s.time())
}

// emit writes a VM event into the outbox of the state's own transaction.
func (s *Service) emit(ctx context.Context, tx storage.Tx, kind string, vm *domain.VM, at time.Time) error {
	return tx.Outbox().Append(ctx, events.VM(kind, vm, at))
}

func (s *Service) wake(ctx context.Context, vm *domain.VM) {
	if vm.UnreachableSince != nil {
		return // the worker looks when it is back
	}
	node, err := s.nodes.Node(vm.WorkerID)
	if err != nil {
		// The worker finds the row by itself when it is back.
		s.log.WarnContext(ctx, "worker not reached", "vm", vm.ID, "worker", vm.WorkerID, "error", err)
		return
	}
	node.Wake(ctx, vm.ProjectID, vm.ID)
}

// GetVM implements vmm.VMs.
func (s *Service) GetVM(ctx context.Context, by vmm.Caller, id domain.ID) (*domain.VM, error) {
	vm := vmm.AheadOf(ctx).Take(by.ProjectID, id, "")
	if vm != nil {
		return vm, nil
	}
	err := s.store.Read(ctx, func(tx storage.Tx) (err error) {
		vm, err = tx.VMs().Get(ctx, by.ProjectID, id)
		return err
	})
	return vm, err
}

// ResolveVM implements vmm.VMs.
func (s *Service) ResolveVM(ctx context.Context, by vmm.Caller, idOrName string) (*domain.VM, error) {
	if domain.IsID(idOrName) {
		return s.GetVM(ctx, by, domain.ID(idOrName))
	}
	if err := domain.ValidateName("vm", idOrName); err != nil || idOrName == "" {
		return nil, notFound("VM", idOrName)
	}
	var vm *domain.VM
	err := s.store.View(ctx, func(tx storage.Tx) (err error) {
		vm, err = tx.VMs().ByName(ctx, by.ProjectID, idOrName)
		return err
	})
	return vm, err
}

// ListVMs implements vmm.VMs.
func (s *Service) ListVMs(ctx context.Context, by vmm.Caller, f vmm.VMFilter) (vmm.List[*domain.VM], error) {
	var list vmm.List[*domain.VM]
	err := s.store.Read(ctx, func(tx storage.Tx) (err error) {
		list, err = tx.VMs().List(ctx, storage.VMFilter{
			ProjectID: by.ProjectID, States: f.States, Metadata: f.Metadata, Template: f.Template,
			Name: f.Name, IncludeDeleted: f.IncludeDeleted, Page: f.Page,
		})
		return err
	})
	return list, err
}

// PatchVM implements vmm.VMs.
func (s *Service) PatchVM(ctx context.Context, by vmm.Caller, id domain.ID, p vmm.PatchVM) (*domain.VM, error) {
	if err := s.checkPatch(p); err != nil {
		return nil, err
	}
	var vm *domain.VM
	err := s.store.Update(ctx, func(tx storage.Tx) (err error) {
		if vm, err = tx.VMs().Get(ctx, by.ProjectID, id); err != nil {
			return err
		}
		if vm.Desired == domain.WantDeleted {
			return notRunning(vm)
		}
		if p.Name != nil {
			vm.Name = *p.Name
		}
		if p.Metadata != nil {
			vm.Metadata = p.Metadata
		}
		if p.Timeout != nil {
			s.setDeadline(vm, *p.Timeout)
		}
		if p.IdleTimeout != nil {
			vm.IdleTimeout = *p.IdleTimeout
		}
		if p.OnTimeout != nil {
			vm.OnTimeout = *p.OnTimeout
		}
		if p.AutoResume != nil {
			vm.AutoResume = *p.AutoResume
		}
		vm.UpdatedAt = s.time()
		if err := tx.VMs().Update(ctx, vm); err != nil {
			return err
		}
		return s.emit(ctx, tx, events.VMUpdated, vm, vm.UpdatedAt)
	})
	if err != nil {
		return nil, err
	}
	s.wake(ctx, vm) // the worker takes over the new times and acknowledges them
	return vm, nil
}

func (s *Service) checkPatch(p vmm.PatchVM) error {
	if p.Name != nil {
		if err := domain.ValidateName("name", *p.Name); err != nil {
			return err
		}
	}
	if err := domain.ValidateMetadata("metadata", p.Metadata); err != nil {
		return err
	}
	if err := s.checkTimeout("timeout_ms", p.Timeout); err != nil {
		return err
	}
	if p.IdleTimeout != nil {
		if err := domain.ValidateDuration("idle_timeout_ms", *p.IdleTimeout); err != nil {
			return err
		}
	}
	if p.OnTimeout != nil {
		return p.OnTimeout.Validate("on_timeout")
	}
	return nil
}

// VMUsage implements vmm.VMs.
func (s *Service) VMUsage(ctx context.Context, by vmm.Caller, id domain.ID) (vmm.Usage, error) {
	vm, err := s.GetVM(ctx, by, id)
	if err != nil {
		return vmm.Usage{}, err
	}
	if vm.Observed != domain.Running && vm.Observed != domain.Paused {
		return vmm.Usage{}, notRunning(vm)
	}
	node, err := s.nodeOf(vm)
	if err != nil {
		return vmm.Usage{}, err
	}
	return node.Usage(ctx, vm)
}

// VMUsed implements vmm.VMs.
func (s *Service) VMUsed(ctx context.Context, by vmm.Caller, id domain.ID, from, to time.Time) ([]domain.Usage, error) {
	vm, err := s.GetVM(ctx, by, id)
	if err != nil {
		return nil, err
	}
	var out []domain.Usage
	err = s.store.Read(ctx, func(tx storage.Tx) (err error) {
		out, err = tx.Usage().List(ctx, storage.UsageFilter{ProjectID: vm.ProjectID, VMID: vm.ID, From: from, To: to}, vmm.MaxSpans)
		return err
	})
	return out, err
}

// VMTrace implements vmm.VMs.
func (s *Service) VMTrace(ctx context.Context, by vmm.Caller, id domain.ID) ([]vmm.Phase, error) {
	vm, err := s.GetVM(ctx, by, id)
	if err != nil {
		return nil, err
	}
	node, err := s.nodeOf(vm)
	if err != nil {
		return nil, err
	}
	return node.Trace(ctx, id)
}

// VMPreviewToken implements vmm.VMs.
func (s *Service) VMPreviewToken(ctx context.Context, by vmm.Caller, id domain.ID) (string, error) {
	vm, err := s.GetVM(ctx, by, id)
	if err != nil {
		return "", err
	}
	tokens, err := s.openTokens(ctx, vm)
	return tokens.preview, err
}
