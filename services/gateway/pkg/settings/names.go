package settings

import (
	"net"
	"net/netip"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// Names is a name server for the preview domain, for hosts that do not resolve
// it otherwise (docs/TLS.md).
type Names struct {
	Address string   `yaml:"address" doc:"Address and port (UDP and TCP) of a name server for the preview domain, such as 127.0.0.1:7353; default: none."`
	Answers []string `yaml:"answers" doc:"Addresses that it answers with; default: 127.0.0.1, or where TLS is served, if that is one address."`
}

// NameAnswers are the addresses of the preview domain. Returns InvalidArgument.
func (s Front) NameAnswers() ([]netip.Addr, error) {
	var out []netip.Addr
	for _, text := range s.Names.Answers {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return nil, errors.Wrap(err, errors.InvalidArgument, "%q is not an address", text).WithField("names.answers")
		}
		out = append(out, a.Unmap().WithZone(""))
	}
	if len(out) > 0 {
		return out, nil
	}
	secure, _ := s.TLSAddress()
	if ap, err := netip.ParseAddrPort(secure); err == nil && !ap.Addr().IsUnspecified() {
		return []netip.Addr{ap.Addr().Unmap().WithZone("")}, nil
	}
	return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}, nil
}

func (s Front) checkNames() error {
	if s.Names.Address != "" {
		if _, _, err := net.SplitHostPort(s.Names.Address); err != nil {
			return errors.Wrap(err, errors.InvalidArgument, "%q is not an address with a port", s.Names.Address).
				WithField("names.address").WithHint("such as 127.0.0.1:7353")
		}
	}
	_, err := s.NameAnswers()
	return err
}
