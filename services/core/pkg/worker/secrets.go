package worker

import (
	"bytes"
	"context"
	"io"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/guest"
	"github.com/aetherium/aetherium/services/core/pkg/service"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// secretEnv adds a VM's secrets to its environment: values, and placeholders
// of those that are bound to hosts. For the latter, and for rules of its policy
// that set headers, the VM is made to trust the certificates that its requests to these hosts meet.
func (w *Worker) secretEnv(ctx context.Context, vm *domain.VM, client *guest.Client, env map[string]string) error {
	bound := len(vm.Spec.Egress.Rules) > 0
	for _, use := range vm.Spec.Secrets {
		if len(use.Hosts) > 0 {
			env[use.Env] = use.Placeholder
			bound = true
			continue
		}
		value, err := service.SecretValue(ctx, w.Store, w.Sealer, vm.ProjectID, use.Name)
		if errors.HasCode(err, errors.NotFound) {
			// It was there when the VM was made. Without it the VM can still be used.
			w.Log.Warn("a secret is gone; the VM goes without it", "vm", vm.ID, "secret", use.Name)
			continue
		}
		if err != nil {
			return errors.Wrap(err, errors.CodeOf(err), "the secret %q cannot be given to the VM", use.Name)
		}
		env[use.Env] = value
	}
	if !bound {
		return nil
	}
	return w.trustEgressCA(ctx, client, env)
}

// guestCA is where a VM finds the certificate of the egress proxy. Debian's
// update-ca-certificates(8) keeps what is there in the bundle.
const guestCA = "/usr/local/share/ca-certificates/aetherium-egress.crt"

// bundles are where distributions keep the certificates that OpenSSL, GnuTLS
// and Go trust: Debian, Ubuntu, Alpine and Arch; Fedora and RHEL; openSUSE.
func bundles() []string {
	return []string{"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"}
}

// maxBundle bounds what is read of a bundle; Mozilla's has 220 KiB.
const maxBundle = 4 << 20

// trustEgressCA adds the proxy's certificate to the VM's bundle, and points
// programs that bring certificates of their own to it.
func (w *Worker) trustEgressCA(ctx context.Context, client *guest.Client, env map[string]string) error {
	ca := w.config.EgressCA
	if len(ca) == 0 {
		return errors.New(errors.Unsupported, "this worker has no certificate authority for requests that are changed on their way")
	}
	root := vmm.FileOptions{User: "0", Mode: 0o644}
	if _, err := client.Write(ctx, guestCA, bytes.NewReader(ca), root); err != nil {
		return err
	}
	trusted := guestCA
	for _, path := range bundles() {
		_, r, err := client.Read(ctx, path, root)
		if errors.HasCode(err, errors.NotFound) {
			continue
		}
		if err != nil {
			return err
		}
		have, err := io.ReadAll(io.LimitReader(r, maxBundle))
		if err = errors.Join(err, r.Close()); err != nil {
			return err
		}
		if len(have) == maxBundle {
			continue // whatever it is, it is no bundle
		}
		trusted = path
		if bytes.Contains(have, bytes.TrimSpace(ca)) {
			break
		}
		if _, err := client.Write(ctx, path, io.MultiReader(bytes.NewReader(have), bytes.NewReader([]byte("\n")), bytes.NewReader(ca)), root); err != nil {
			return err
		}
		break
	}
	env["NODE_EXTRA_CA_CERTS"] = guestCA // Node adds it to its own
	for _, name := range []string{"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT", "GIT_SSL_CAINFO", "AWS_CA_BUNDLE"} {
		if env[name] == "" {
			env[name] = trusted
		}
	}
	return nil
}
