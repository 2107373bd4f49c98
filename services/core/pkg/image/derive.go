package image

import (
	"context"
	"encoding/hex"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/logging"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/image/internal/copytree"
	"github.com/aetherium/aetherium/services/core/pkg/image/internal/finish"
	"github.com/aetherium/aetherium/services/core/pkg/image/internal/manifest"
)

// Derived is a build that is another one with changes.
type Derived struct {
	// Base is the build that it is made of. Neither is ever written to, so they
	// share their files.
	Base string
	// Tree is the changed root filesystem; nil: the base's own.
	Tree *Tree
	// Defaults of processes.
	Env           map[string]string
	WorkDir, User string
}

// Tree is a root filesystem on this host, for the time of a call.
type Tree struct {
	Dir string
	// Upper is the part of Dir that is not the base's, as overlayfs keeps it.
	Upper string
	// ID says what an owner's ID in the tree is in a machine; nil: the same.
	ID func(uint32) uint32
}

// Derive makes a build of another one. See Build for what it promises.
//
// Returns NotFound without the base, InvalidArgument, TooLarge, NoSpace, Conflict.
func (s *Store) Derive(ctx context.Context, id string, src domain.TemplateSource, d Derived, progress Progress) (Result, error) {
	base, err := s.Get(ctx, d.Base)
	if err != nil {
		return Result{}, err
	}
	tree := Tree{Dir: base.RootFS}
	if d.Tree != nil {
		tree = *d.Tree
	}
	return s.run(ctx, id, src, progress, func(ctx context.Context, b *build) error {
		b.say("copy", "keeping the root filesystem")
		b.shares = []manifest.Known{{Root: base.RootFS, File: filepath.Join(s.cfg.Dir, base.ID, manifestName)}}
		b.result.Env, b.result.WorkDir, b.result.User, b.result.Pinned = d.Env, d.WorkDir, d.User, base.Pinned
		if b.result.Env == nil {
			b.result.Env = map[string]string{}
		}
		return copytree.Copy(ctx, tree.Dir, b.root, copytree.Options{
			Limits: b.cfg.Limits, KeepOwner: true, Note: b.note("copy"), ID: tree.ID,
			Base: &copytree.Base{Dir: base.RootFS, Upper: tree.Upper},
		})
	})
}

// Builds that steps begin with and that no template owns.
const (
	pulledPrefix = "oci-"
	scratchID    = "scratch"
)

// Access is how a registry is asked.
type Access struct {
	// Untrusted has the meaning of domain.TemplateSource's.
	Untrusted bool
	// Username and Password, where given, are shown in place of this host's
	// credentials, or of none.
	Username string
	Password logging.Secret
}

// Pull makes the build of an OCI image unless it is here: once for each digest
// that the reference turns out to mean.
// Its errors are those of Build.
func (s *Store) Pull(ctx context.Context, reference string, how Access, progress Progress) (Result, error) {
	ref, err := parseReference(reference)
	if err != nil {
		return Result{}, err
	}
	opts, err := s.registryOptions(ref, how)
	if err != nil {
		return Result{}, err
	}
	say, _ := reporter(progress)
	say("pull", "asking %s for %s", ref.Context().RegistryStr(), ref.Name())
	img, err := resolve(ctx, ref, opts)
	if err != nil {
		return Result{}, registryError(ctx, err, ref, how)
	}
	digest, err := img.Digest()
	if err != nil {
		return Result{}, registryError(ctx, err, ref, how)
	}
	sum, err := hex.DecodeString(digest.Hex)
	if err != nil || len(sum) < 16 {
		return Result{}, errors.New(errors.Unavailable, "%s gave no usable digest", ref.Context().RegistryStr())
	}
	pinned := ref.Context().Name() + "@" + digest.String()
	src := domain.TemplateSource{Image: pinned, Untrusted: how.Untrusted}
	return s.run(ctx, pulledPrefix+hex.EncodeToString(sum[:16]), src, progress, func(ctx context.Context, b *build) error {
		return b.fromImage(ctx, pinned, how)
	})
}

// Scratch makes the build without any program: mount points and accounts only.
func (s *Store) Scratch(ctx context.Context, progress Progress) (Result, error) {
	return s.run(ctx, scratchID, domain.TemplateSource{}, progress, func(context.Context, *build) error { return nil })
}

var pulledForm = regexp.MustCompile(`^` + pulledPrefix + `[0-9a-f]{32}$`)

// Pulled lists the builds that Pull made, oldest first.
func (s *Store) Pulled(ctx context.Context) ([]Result, error) {
	all, err := s.List(ctx)
	if err != nil {
		return nil, err
	}
	var out []Result
	for _, r := range all {
		if pulledForm.MatchString(r.ID) {
			out = append(out, r)
		}
	}
	return out, nil
}

// UserName is the account that commands run as where an image names none.
const UserName = finish.UserName

// IsReference reports whether text has the form of an OCI image's reference.
func IsReference(text string) bool {
	_, err := parseReference(text)
	return err == nil
}

func parseReference(reference string) (name.Reference, error) {
	if len(reference) > maxReference {
		return nil, errors.New(errors.InvalidArgument, "the image reference is longer than %d bytes", maxReference).WithField("source.image")
	}
	ref, err := name.ParseReference(reference)
	if err != nil {
		return nil, errors.Wrap(err, errors.InvalidArgument, "%q is not an image reference", strings.ToValidUTF8(reference, "?")).
			WithHint("such as docker.io/library/debian:bookworm").WithField("source.image")
	}
	return ref, nil
}
