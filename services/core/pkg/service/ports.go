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
	vm, err := s.anyVM(ctx, vmID)
	if err != nil {
		return nil, err
	}
	vm, node, err := s.running(ctx, vmm.Caller{ProjectID: vm.ProjectID, Name: "preview"}, vmID)
	if err != nil {
		return nil, err
	}
	return node.Dial(ctx, vm, port)
}

// PreviewToken implements vmm.Ports.
func (s *Service) PreviewToken(ctx context.Context, vmID domain.ID) (string, error) {
	vm, err := s.anyVM(ctx, vmID)
	if err != nil {
		return "", err
	}
	return s.openToken(ctx, vm)
}

// anyVM reads a VM of any project: for callers that hold no key but the VM's token.
func (s *Service) anyVM(ctx context.Context, id domain.ID) (*domain.VM, error) {
	if node, err := s.nodes.Any(); err == nil {
		if vm, ok := node.Live(id); ok {
			return vm, nil
		}
	}
	var vm *domain.VM
	err := s.store.View(ctx, func(tx storage.Tx) (err error) {
		vm, err = tx.VMs().Get(ctx, storage.System, id)
		return err
	})
	return vm, err
}
