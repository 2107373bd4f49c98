package e2b

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"crypto/rand"
	"io"
	"path"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

const (
	// uploadTTL is how long files may be sent to an address.
	uploadTTL = 15 * time.Minute
	// announcedTTL is how long a build may be begun that was announced.
	announcedTTL = 24 * time.Hour
	// minLeft is how long files are there at least of which clients are told that they are.
	minLeft = time.Hour
)

// Notes are kept between requests, for whichever gateway the next one comes to.
type Notes interface {
	// Note returns AlreadyExists for a name that the project has one of.
	Note(ctx context.Context, project domain.ID, name string, value any, until time.Time) error
	// Noted returns NotFound.
	Noted(ctx context.Context, project domain.ID, name string, value any) error
}

// announced is a build that was not begun.
type announced struct {
	Build domain.ID
	Name  string
	Tags  []string
	Shape domain.Resources
}

// allowed is which files may be sent, and for whom.
type allowed struct {
	Name string // of who asked
	Hash string
}

func buildNote(build string) string { return "e2b.build\n" + build }

func (a *API) keep(ctx context.Context, project domain.ID, b announced) error {
	return a.Notes.Note(ctx, project, buildNote(b.Build.String()), b, a.Now().Add(announcedTTL))
}

// announcedBuild returns NotFound.
func (a *API) announcedBuild(ctx context.Context, project domain.ID, name, build string) (b announced, err error) {
	err = a.Notes.Noted(ctx, project, buildNote(build), &b)
	if errors.HasCode(err, errors.NotFound) || err == nil && b.Name != name {
		err = errors.New(errors.NotFound, "the build was not announced, or too long ago").WithHint("begin anew")
	}
	return b, err
}

// allow makes the token with which somebody may send files: the project, and a
// secret that is kept nowhere.
func (a *API) allow(ctx context.Context, by vmm.Caller, hash string) (token string, err error) {
	secret := rand.Text()
	return by.ProjectID.String() + "-" + secret, a.Notes.Note(ctx, by.ProjectID, allowNote(secret), allowed{by.Name, hash}, a.Now().Add(uploadTTL))
}

func allowNote(secret string) string { return "e2b.upload\n" + secret }

// take uses a token up. Returns NotFound.
func (a *API) take(ctx context.Context, token string) (by vmm.Caller, hash string, err error) {
	id, secret, _ := strings.Cut(token, "-")
	project, err := domain.ParseID(id)
	var what allowed
	if err == nil {
		err = a.Notes.Noted(ctx, project, allowNote(secret), &what)
	}
	if err == nil { // one of those that come with it is first
		err = a.Notes.Note(ctx, project, "e2b.uploaded\n"+secret, nil, a.Now().Add(2*uploadTTL))
	}
	switch errors.CodeOf(err) {
	case errors.NotFound, errors.AlreadyExists, errors.InvalidArgument:
		err = errors.New(errors.NotFound, "the address is not one that files can be sent to").WithHint("it works once and for some minutes")
	}
	return vmm.Caller{ProjectID: project, Name: what.Name}, what.Hash, err
}

// sent tells whether the files of a COPY are there, and can be read.
func (a *API) sent(ctx context.Context, by vmm.Caller, hash string) (bool, error) {
	u, err := a.VMs.NamedUpload(ctx, by, filesName(hash))
	if err == nil && u.ExpiresAt.Before(a.Now().Add(minLeft)) {
		return false, nil // a build may be begun a while later
	}
	if err == nil {
		var r io.ReadCloser
		if r, err = a.VMs.OpenUpload(ctx, by, u.ID); err == nil {
			return true, r.Close()
		}
	}
	switch errors.CodeOf(err) {
	case errors.NotFound, errors.Unavailable, errors.Unsupported: // on a worker that is away, or was put back to an older version: they are sent to another
		return false, nil
	}
	return false, err
}

// contextOf makes the one archive that a build copies from of those that were
// sent: each below a directory that its hash names.
func (a *API) contextOf(ctx context.Context, by vmm.Caller, hashes []string) (domain.ID, error) {
	ids := map[string]domain.ID{}
	for _, hash := range hashes {
		u, err := a.VMs.NamedUpload(ctx, by, filesName(hash))
		if errors.HasCode(err, errors.NotFound) {
			err = errors.New(errors.NotFound, "the files of a COPY were not sent").WithField("steps")
		}
		if err != nil {
			return "", err
		}
		ids[hash] = u.ID
	}
	r, w := io.Pipe()
	go func() {
		to := tar.NewWriter(w)
		var err error
		for hash, id := range ids {
			if err = a.addBelow(ctx, to, hash, by, id); err != nil {
				break
			}
		}
		_ = w.CloseWithError(errors.Join(err, to.Close()))
	}()
	defer func() { _ = r.Close() }()
	u, err := a.VMs.SaveUpload(ctx, by, "", &bounded{r, a.MaxUploadBytes})
	if err != nil {
		return "", err
	}
	return u.ID, nil
}

// filesName is the name of the upload of what one COPY takes.
func filesName(hash string) string { return "e2b/" + hash }

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

// addBelow copies an upload's files, directories and links into another archive, below
// a directory.
func (a *API) addBelow(ctx context.Context, to *tar.Writer, dir string, by vmm.Caller, id domain.ID) error {
	f, err := a.VMs.OpenUpload(ctx, by, id)
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

// badArchive is what reading an archive, or writing another, ended with. What the
// worker that has it told, or who takes the other, is about neither.
func badArchive(err error) error {
	var coded *errors.Error
	if errors.As(err, &coded) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, io.ErrClosedPipe) {
		return err
	}
	return errors.Wrap(err, errors.InvalidArgument, "the files of a COPY are no archive that can be read")
}
