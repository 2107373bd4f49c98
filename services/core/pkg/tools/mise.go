package tools

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// DefaultMise is the version of mise that this code was tested with.
const DefaultMise = "2026.9.15"

// DefaultRegistry is npm's.
const DefaultRegistry = "https://registry.npmjs.org"

// Bounds on what a registry answers.
const (
	maxPackument = 4 << 20
	maxMise      = 512 << 20
)

var miseVersionForm = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z.-]{0,31}$`)

// misePath returns where the program mise is on the host: where a path is set,
// that one, else the npm package's, fetched once. The host only unpacks it; it
// runs in machines.
func (m *Manager) misePath(ctx context.Context, say func(string)) (string, error) {
	if filepath.IsAbs(m.cfg.Mise) {
		info, err := os.Stat(m.cfg.Mise)
		if err != nil || !info.Mode().IsRegular() {
			return "", wrap(err, errors.Unavailable, CodeMise, "the setting tools.mise names no program")
		}
		return m.cfg.Mise, nil
	}
	m.miseMu.Lock()
	defer m.miseMu.Unlock()
	dir := filepath.Join(m.cache.root, "mise-"+m.cfg.Mise+"-"+runtime.GOARCH)
	program := filepath.Join(dir, "mise")
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	say("fetching mise " + m.cfg.Mise + " from " + m.registryHost())
	if err := m.fetchMise(ctx, dir); err != nil {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		if errors.HasCode(err, errors.NoSpace) {
			return "", err
		}
		return "", wrap(err, errors.Unavailable, CodeMise, "mise %s cannot be had from %s", m.cfg.Mise, m.registryHost()).
			WithHint("see the settings tools.mise, tools.registry and tools.ca_file")
	}
	return program, nil
}

func (m *Manager) registryHost() string {
	if u, err := url.Parse(m.cfg.Registry); err == nil {
		return u.Host
	}
	return "the registry"
}

// fetchMise gets the npm package of mise and keeps its program in dir, in one step.
func (m *Manager) fetchMise(ctx context.Context, dir string) error {
	client, err := m.httpClient()
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	arch := map[string]string{"amd64": "x64", "arm64": "arm64"}[runtime.GOARCH]
	var version struct {
		Dist struct {
			Tarball   string `json:"tarball"`
			Integrity string `json:"integrity"`
		} `json:"dist"`
	}
	name := m.cfg.Registry + "/@jdxcode%2Fmise-linux-" + arch + "/" + m.cfg.Mise
	err = get(ctx, client, name, func(r io.Reader) error {
		return json.NewDecoder(io.LimitReader(r, maxPackument)).Decode(&version)
	})
	if err != nil {
		return err
	}
	want, ok := strings.CutPrefix(version.Dist.Integrity, "sha512-")
	if !ok || version.Dist.Tarball == "" {
		return errors.Plain("the registry gives no SHA-512 of the package")
	}
	staged, discard, err := m.cache.stage()
	if err != nil {
		return err
	}
	defer discard()
	sum := sha512.New()
	err = get(ctx, client, version.Dist.Tarball, func(r io.Reader) error {
		r = io.TeeReader(io.LimitReader(r, maxMise), sum)
		if err := unpackMise(r, filepath.Join(staged, "mise")); err != nil {
			return err
		}
		_, err := io.Copy(io.Discard, r) // to the end, for the sum
		return err
	})
	if err != nil {
		return err
	}
	if got := base64.StdEncoding.EncodeToString(sum.Sum(nil)); got != want {
		return errors.Plain("the package is not what the registry says it is")
	}
	if err := os.Chmod(staged, 0o755); err != nil { //nolint:gosec // seen in machines
		return err
	}
	if err := syncTree(staged); err != nil {
		return err
	}
	if err := os.Rename(staged, dir); err != nil {
		return hostFault(err, "mise cannot be kept")
	}
	return nil
}

func get(ctx context.Context, client *http.Client, from string, read func(io.Reader) error) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return errors.Plain("the registry answered " + resp.Status)
	}
	return read(resp.Body)
}

// unpackMise takes the one file out of an npm package that is needed.
func unpackMise(r io.Reader, to string) error {
	gz, err := gzip.NewReader(r)
	if err != nil {
		return err
	}
	for tr := tar.NewReader(gz); ; {
		hdr, err := tr.Next()
		if err != nil {
			return err // also when the program is not in it
		}
		if hdr.Name != "package/bin/mise" || hdr.Typeflag != tar.TypeReg || hdr.Size > maxMise {
			continue
		}
		f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755) //nolint:gosec // run in machines
		if err != nil {
			return err
		}
		_, err = io.CopyN(f, tr, hdr.Size)
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return hostFault(err, "mise cannot be kept")
		}
		return nil
	}
}

// httpClient trusts what machines are told to trust, and uses the
// environment's proxy.
func (m *Manager) httpClient() (*http.Client, error) {
	t := http.DefaultTransport.(*http.Transport).Clone()
	if m.cfg.CAFile != "" {
		pem, err := os.ReadFile(m.cfg.CAFile)
		if err != nil {
			return nil, err
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, errors.Plain("there is no certificate in tools.ca_file")
		}
		t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	t.ResponseHeaderTimeout = time.Minute
	return &http.Client{Transport: t}, nil
}
