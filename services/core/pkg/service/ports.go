package service

import (
	"context"
	"net"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// DialPort implements vmm.Ports. The caller (the preview proxy) has compared
// the VM's token or checked the project.
func (s *Service) DialPort(ctx context.Context, vmID domain.ID, port uint16) (net.Conn, error) {
	if port == 0 {
		return nil, errors.New(errors.InvalidArgument, "port 0 is not a port").WithField("port")
	}
	if port == vmm.AgentPort {
		return nil, errors.New(errors.PermissionDenied, "port %d is the guest agent's and is not forwarded", vmm.AgentPort).WithField("port")
	}
	vm, node, err := s.runningAny(ctx, "preview", vmID)
	if err != nil {
		return nil, err
	}
	return node.Dial(ctx, vm, port)
}

// Awake implements vmm.Ports.
func (s *Service) Awake(ctx context.Context, vmID domain.ID) (here bool, err error) {
	_, node, err := s.runningAny(ctx, "preview", vmID)
	return err == nil && node == s.nodes.Here(), err
}

// Preview implements vmm.Ports.
func (s *Service) Preview(ctx context.Context, vmID domain.ID) (vmm.Preview, error) {
	vm, err := s.anyVM(ctx, vmID)
	if err != nil {
		return vmm.Preview{}, err
	}
	tokens, err := s.openTokens(ctx, vm)
	return vmm.Preview{Previews: vm.Spec.Previews, Token: tokens.preview}, err
}

// DialAgent implements vmm.Agents.
func (s *Service) DialAgent(ctx context.Context, vmID domain.ID, wake bool) (net.Conn, error) {
	if !wake {
		vm, err := s.anyVM(ctx, vmID)
		if err != nil {
			return nil, err
		}
		if vm.Desired != domain.WantRunning {
			return nil, notRunning(vm)
		}
	}
	vm, node, err := s.runningAny(ctx, "agent", vmID)
	if err != nil {
		return nil, err
	}
	conn, err := node.Dial(ctx, vm, vmm.AgentPort)
	if errors.HasCode(err, errors.Unavailable) {
		// It may have been on its way out when it was looked up.
		if now, nerr := s.storedVM(ctx, vmID); nerr == nil && now.Desired != domain.WantRunning {
			return nil, notRunning(now)
		}
	}
	return conn, err
}

// AgentAccess implements vmm.Agents.
func (s *Service) AgentAccess(ctx context.Context, vmID domain.ID) (vmm.AgentAccess, error) {
	vm, err := s.anyVM(ctx, vmID)
	if err != nil {
		return vmm.AgentAccess{}, err
	}
	tokens, err := s.openTokens(ctx, vm)
	if err == nil && tokens.agent == "" {
		err = errors.New(errors.NotFound, "the VM is older than tokens of agents")
	}
	return vmm.AgentAccess{Token: tokens.agent, ProjectID: vm.ProjectID}, err
}

// anyVM reads a VM of any project: for callers that hold no key but the VM's token.
func (s *Service) anyVM(ctx context.Context, id domain.ID) (*domain.VM, error) {
	if vm, _ := s.hereLive(id); vm != nil {
		return vm, nil
	}
	return s.storedVM(ctx, id)
}

// storedVM reads the row of a VM of any project.
func (s *Service) storedVM(ctx context.Context, id domain.ID) (*domain.VM, error) {
	var vm *domain.VM
	err := s.store.Read(ctx, func(tx storage.Tx) (err error) {
		vm, err = tx.VMs().Get(ctx, storage.System, id)
		return err
	})
	return vm, err
}
