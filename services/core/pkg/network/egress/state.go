package egress

import (
	"net/netip"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// Machine is what netd must know of a machine.
type Machine struct {
	Address netip.Addr          `json:"address"` // that it has, alone
	ID      string              `json:"id"`      // names its log
	Policy  domain.EgressPolicy `json:"policy"`  // in its normal form
	Secrets []Secret            `json:"secrets,omitempty"`
	Headers []domain.HeaderRule `json:"headers,omitempty"`
	Proxy   *domain.EgressProxy `json:"proxy,omitempty"`
}

// Rules of the machine.
func (m Machine) Rules() *Rules {
	r := New(m.Policy, m.Secrets, m.Headers...)
	r.proxy = m.Proxy
	return r
}

// State is everything that netd must know; what is not in it is forgotten.
type State struct {
	Machines []Machine `json:"machines"`
	CA       *CA       `json:"ca,omitempty"` // nil: no TLS is intercepted
}

// CA signs the certificates of hosts whose requests are changed.
type CA struct {
	Certificate []byte `json:"certificate"` // PEM
	Key         []byte `json:"key"`         // PEM, PKCS #8
}
