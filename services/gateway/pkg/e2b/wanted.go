package e2b

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"crypto/rand"
	"io"
	"os"
	"path"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

const (
	// maxWanted bounds each of what is remembered between the requests of builds.
	maxWanted = 4096
	// uploadTTL is how long files may be sent to an address.
	uploadTTL = 15 * time.Minute
)

// wanted is what is remembered between the requests by which an SDK begins a
// build. Who asks begins anew when it is gone, as after a restart.
type wanted struct {
	builds  *lru.Cache[string, announced]
	uploads *lru.Cache[string, allowed]      // by token
	hashes  *lru.Cache[[2]string, domain.ID] // uploads, by project and hash
}

// announced is a build that was not begun.
type announced struct {
	project, build domain.ID
	name           string
	tags           []string
	shape          domain.Resources
}

// allowed is who may send which files.
type allowed struct {
	by    vmm.Caller
	hash  string
	until time.Time
}

func newWanted() *wanted {
	builds, err := lru.New[string, announced](maxWanted)
	uploads, uerr := lru.New[string, allowed](maxWanted)
	hashes, herr := lru.New[[2]string, domain.ID](maxWanted)
	if err := errors.Join(err, uerr, herr); err != nil {
		panic(err) // the size is a constant
	}
	return &wanted{builds, uploads, hashes}
}

func (m *wanted) announce(a announced) { m.builds.Add(a.build.String(), a) }

func (m *wanted) find(project domain.ID, build string) (announced, bool) {
	a, ok := m.builds.Get(build)
	return a, ok && a.project == project
}

func (m *wanted) allow(by vmm.Caller, hash string, now time.Time) (token string) {
	token = rand.Text()
	m.uploads.Add(token, allowed{by, hash, now.Add(uploadTTL)})
	return token
}

// take uses a token up.
func (m *wanted) take(token string, now time.Time) (by vmm.Caller, hash string, ok bool) {
	u, ok := m.uploads.Get(token)
	if !ok || !m.uploads.Remove(token) || now.After(u.until) {
		return by, "", false
	}
	return u.by, u.hash, true
}

func (m *wanted) sent(project domain.ID, hash string, upload domain.ID) {
	m.hashes.Add([2]string{project.String(), hash}, upload)
}

func (m *wanted) files(project domain.ID, hash string) (domain.ID, bool) {
	return m.hashes.Get([2]string{project.String(), hash})
}

// contextOf makes the one archive that a build copies from of those that were
// sent: each below a directory that its hash names. Returns the archive's path.
func (a *API) contextOf(ctx context.Context, by vmm.Caller, hashes []string) (string, error) {
	paths := map[string]string{}
	for _, hash := range hashes {
		id, ok := a.wanted.files(by.ProjectID, hash)
		if !ok {
			return "", errors.New(errors.NotFound, "the files of a COPY were not sent").WithField("steps")
		}
		p, err := a.Uploads.Path(ctx, by, id)
		if err != nil {
			return "", err
		}
		paths[hash] = p
	}
	r, w := io.Pipe()
	go func() {
		to := tar.NewWriter(w)
		var err error
		for hash, p := range paths {
			if err = addBelow(to, hash, p); err != nil {
				break
			}
		}
		_ = w.CloseWithError(errors.Join(err, to.Close()))
	}()
	defer func() { _ = r.Close() }()
	u, err := a.Uploads.Save(ctx, by, &bounded{r, a.MaxUploadBytes})
	if err != nil {
		return "", err
	}
	return a.Uploads.Path(ctx, by, domain.ID(u.ID))
}

// bounded fails with TooLarge beyond so many bytes: an archive may unpack to
// more than was sent.
type bounded struct {
	r    io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, errors.New(errors.TooLarge, "the files of the build are too large")
	}
	return n, err
}

// addBelow copies an archive's files, directories and links into another, below a directory.
func addBelow(to *tar.Writer, dir, from string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	var r io.Reader = bufio.NewReader(f)
	if magic, _ := r.(*bufio.Reader).Peek(2); string(magic) == "\x1f\x8b" { // RFC 1952 §2.3.1
		if r, err = gzip.NewReader(r); err != nil {
			return badArchive(err)
		}
	}
	for in := tar.NewReader(r); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return badArchive(err)
		}
		switch h.Typeflag {
		case tar.TypeReg, tar.TypeDir, tar.TypeSymlink:
		default:
			continue
		}
		name := dir + path.Clean("/"+h.Name)
		if h.Typeflag == tar.TypeDir && !strings.HasSuffix(name, "/") {
			name += "/"
		}
		out := &tar.Header{Typeflag: h.Typeflag, Name: name, Linkname: h.Linkname, Size: h.Size, Mode: h.Mode & 0o7777, ModTime: h.ModTime, Format: tar.FormatPAX}
		if err := to.WriteHeader(out); err != nil {
			return badArchive(err)
		}
		if _, err := io.Copy(to, in); err != nil {
			return badArchive(err)
		}
	}
}

func badArchive(err error) error {
	return errors.Wrap(err, errors.InvalidArgument, "the files of a COPY are no archive that can be read")
}
