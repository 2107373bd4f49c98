package settings

import (
	"net"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// TLS says where the API and previews are served over TLS, beside plain HTTP,
// and with which certificate (docs/TLS.md).
type TLS struct {
	Address  string `yaml:"address" doc:"Address and port for TLS, beside the plain one; auto: 127.0.0.1:7443 or, where that is taken, another port; off: none. Anything but loopback lets others in."`
	CertFile string `yaml:"cert_file" doc:"Certificate (PEM, with its chain) for <domain>, *.<domain> and api.<domain>; taken up anew when it changes. Default: one of this installation's own authority, tls/ca.pem in the data directory, which clients have to trust."`
	KeyFile  string `yaml:"key_file" doc:"Key (PEM) of the certificate in cert_file."`
}

// The words that tls.address may be.
const (
	TLSAuto = "auto"
	TLSOff  = "off"
)

// defaultTLS is where TLS is served unless another port has to be taken.
const defaultTLS = "127.0.0.1:7443"

// TLSAddress is where TLS is served, empty for nowhere, and whether another
// port may be taken.
func (s Front) TLSAddress() (address string, elsewhere bool) {
	switch s.TLS.Address {
	case TLSOff:
		return "", false
	case TLSAuto:
		if _, port, _ := net.SplitHostPort(s.Listen.Address); port == "0" {
			return "127.0.0.1:0", false // whoever wants any port wants any here
		}
		return defaultTLS, true
	}
	return s.TLS.Address, false
}

func (t TLS) check() error {
	if t.Address != TLSAuto && t.Address != TLSOff {
		if _, _, err := net.SplitHostPort(t.Address); err != nil {
			return errors.Wrap(err, errors.InvalidArgument, "%q is not an address with a port", t.Address).
				WithField("tls.address").WithHint("such as %s, auto or off", defaultTLS)
		}
	}
	if (t.CertFile == "") != (t.KeyFile == "") {
		return errors.New(errors.InvalidArgument, "a certificate takes a key, and a key a certificate").WithField("tls.cert_file")
	}
	return nil
}
